"""Which policy an engine was started with, and what was set about it. No vLLM.

From `--additional-config '{"llmservice": {"policy": "slai-plus", "token_budget": "auto", "aim": 0.9}}'` (any setting of
the policy beside the two of ours), else from LLMSERVICE_POLICY and LLMSERVICE_TOKEN_BUDGET. A mistake stops the engine
with a sentence: a scheduler that quietly does something else is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmservice_core import contract
from llmservice_core.policies import DEFAULT, make_policy
from llmservice_core.steps import Policy

KEY = "llmservice"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """`token_budget` None: auto."""

    policy: str = DEFAULT
    token_budget: int | None = None
    own: Mapping[str, Any] = field(default_factory=dict)

    def make(self, scale: int = 1) -> Policy | None:
        """A new policy; ValueError with a sentence for a wrong name or setting."""
        return make_policy(self.policy, self.own, scale)


def read(environment: Mapping[str, str], additional_config: Any = None) -> SchedulerSettings:
    """ValueError with a sentence that says what to change."""
    given = _section(additional_config)
    where = f"--additional-config {KEY}"
    policy = given.pop("policy", None) or environment.get(contract.ENV_POLICY) or DEFAULT
    if not isinstance(policy, str):
        raise ValueError(f"{where}: policy must be a name, not {policy!r}")
    budget = given.pop("token_budget", None) or environment.get(contract.ENV_TOKEN_BUDGET) or "auto"
    tokens = _tokens(budget)
    found = SchedulerSettings(policy=policy, token_budget=tokens, own=given)
    try:
        found.make()
    except ValueError as e:
        raise ValueError(f"{where if given else contract.ENV_POLICY}: {e}") from None
    return found


def _section(additional_config: Any) -> dict[str, Any]:
    section = additional_config.get(KEY, {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(section, Mapping):
        raise ValueError(
            f"--additional-config: {KEY} must be an object like {{'policy': 'slai-plus'}}, not {section!r}"
        )
    return dict(section)


def _tokens(budget: Any) -> int | None:
    if budget == "auto":
        return None
    text = str(budget)
    if isinstance(budget, bool) or not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"token_budget must be auto or tokens of a step, 1 to 1000000, not {budget!r}")
    return int(text)
