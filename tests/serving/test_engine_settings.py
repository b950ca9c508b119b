"""How an engine is told its policy: by environment or by --additional-config, and what it says to a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from llmservice_core.policy_plus import Plus
from llmservice_serving.engine_settings import read


def test_without_a_word_it_is_slai_plus_with_a_budget_of_its_own() -> None:
    found = read({})
    assert (found.policy, found.token_budget) == ("slai-plus", None)


@pytest.mark.parametrize(
    ("environment", "config", "policy", "tokens"),
    [
        ({"LLMSERVICE_POLICY": "rad"}, None, "rad", None),
        ({"LLMSERVICE_POLICY": "rad", "LLMSERVICE_TOKEN_BUDGET": "512"}, {}, "rad", 512),
        ({"LLMSERVICE_POLICY": "rad"}, {"llmservice": {"policy": "slai", "token_budget": 256}}, "slai", 256),
        ({"LLMSERVICE_TOKEN_BUDGET": "auto"}, {"llmservice": {}, "other": 1}, "slai-plus", None),
        ({"LLMSERVICE_POLICY": ""}, None, "slai-plus", None),
    ],
)
def test_the_flag_goes_before_the_environment(
    environment: dict[str, str], config: Any, policy: str, tokens: int | None
) -> None:
    found = read(environment, config)
    assert (found.policy, found.token_budget) == (policy, tokens)


def test_settings_of_the_policy_stand_beside_it() -> None:
    policy = read({}, {"llmservice": {"aim": 0.9, "guard_s": 30}}).make()
    assert isinstance(policy, Plus)
    assert (policy.bulk.aim, policy.bulk.guard_s) == (0.9, 30.0)


@pytest.mark.parametrize(
    ("environment", "config", "says"),
    [
        ({"LLMSERVICE_POLICY": "best"}, None, "LLMSERVICE_POLICY: policy 'best': there are fcfs, slai-plus"),
        ({"LLMSERVICE_TOKEN_BUDGET": "many"}, None, "token_budget must be auto or tokens of a step"),
        ({}, {"llmservice": {"token_budget": True}}, "not True"),
        ({}, {"llmservice": {"policy": 7}}, "policy must be a name, not 7"),
        ({}, {"llmservice": {"aims": 1}}, "additional-config llmservice: policy slai-plus has no setting 'aims'"),
        ({}, {"llmservice": "slai"}, "must be an object"),
    ],
)
def test_a_mistake_stops_the_engine_with_a_sentence(environment: dict[str, str], config: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(environment, config)
