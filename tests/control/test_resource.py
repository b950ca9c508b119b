"""The resource as a model: bad manifests, good ones, examples, durations, the Goal, and the printed CRD."""

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from llmservice_api import crd, durations
from llmservice_api.fields import MeasuredGpu
from llmservice_api.resource import parse
from llmservice_core.disaggregation import gpus
from llmservice_core.model import Mode, Pool
from tests.control.bad_manifests import CASES, FREE_ARGS, GOOD, Bad

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("bad", [c for c in CASES if c.model_words is not None], ids=lambda c: c.name)
def test_the_model_refuses_with_the_sentence(bad: Bad) -> None:
    with pytest.raises(ValueError) as error:
        parse(bad.body())
    assert (bad.model_words or bad.words) in str(error.value)


@pytest.mark.parametrize("free", FREE_ARGS)
def test_arguments_that_are_the_users_own(free: str) -> None:
    body = copy.deepcopy(GOOD)
    body["spec"]["engine"] = {"args": [free]}
    assert parse(body).spec.engine.args == [free]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_are_good(path: Path) -> None:
    assert parse(yaml.safe_load(path.read_text())).to_goal().classes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("30s", 30.0), ("2m", 120.0), ("1m30s", 90.0), ("0.5s", 0.5), ("1h", 3600.0)],
)
def test_durations_are_read(text: str, expected: float) -> None:
    assert durations.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "ms", "-5s", "5 s", "5d", "1e3s", "5s "])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        durations.seconds(text)


@pytest.mark.parametrize(("value", "text"), [(0.5, "500ms"), (30.0, "30s"), (0.0625, "62.5ms"), (90.0, "90s")])
def test_durations_are_written(value: float, text: str) -> None:
    assert durations.written(value) == text


def test_the_goal_says_what_the_owner_asked_for() -> None:
    goal = parse(GOOD).to_goal()
    assert [(c.name, c.ttft.target_s, c.tbt.share, c.is_default) for c in goal.classes] == [
        ("interactive", 0.5, 0.99, False),
        ("batch", 30.0, 0.99, True),
    ]
    assert [(p.pool, p.min_replicas, p.max_replicas, p.gpus_per_replica) for p in goal.pools] == [
        (Pool.PREFILL, 1, 8, 1),
        (Pool.DECODE, 1, 8, 2),
    ]
    assert (goal.mode, goal.gpu_budget, goal.interval_s, goal.stabilization_s) == (Mode.AUTO, 12, 15.0, None)


@pytest.mark.parametrize(
    ("scheduler", "scaling", "takes"),
    [
        ({}, {}, True),
        ({}, {"decodeTakesPrefill": "Never"}, False),
        ({"policy": "fcfs"}, {}, False),
        ({"tokenBudget": 512}, {}, False),
        ({"policy": "sarathi"}, {}, True),
    ],
)
def test_decode_takes_prefill_only_where_engines_keep_tbt(
    scheduler: dict[str, Any], scaling: dict[str, Any], takes: bool
) -> None:
    body = yaml.safe_load((ROOT / "examples" / "chat.yaml").read_text())
    body["spec"]["scaling"].update(scaling)
    body["spec"]["engine"] = {"scheduler": scheduler}
    assert parse(body).to_goal().decode_takes_prefill is takes


def test_the_committed_crd_is_the_printed_one() -> None:
    assert (ROOT / "crds" / "llmservices.llmservice.dev.yaml").read_text() == crd.as_yaml(), "run `llmservice crd -o`"


def _walk(node: Any, path: str = "") -> Any:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    if "items" in node:
        yield from _walk(node["items"], f"{path}[]")


def _schema() -> Any:
    return crd.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_every_list_and_text_of_the_spec_has_an_upper_bound() -> None:
    """Without bounds the API server estimates the cost of rules as unbounded and refuses the whole CRD."""
    for path, node in _walk(_schema()["properties"]["spec"]):
        if node.get("type") == "array":
            assert "maxItems" in node, path
            assert "x-kubernetes-list-type" in node, path
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, path


def test_every_node_has_a_type() -> None:
    for path, node in _walk(_schema()):
        assert "type" in node or "x-kubernetes-int-or-string" in node, path


def auto(gpu: str | None, status: dict[str, Any] | None = None) -> Any:
    """GOOD's strictest TBT is 50 ms."""
    body = copy.deepcopy(GOOD)
    body["spec"] |= {"disaggregation": "Auto", "engine": {"gpu": gpu} if gpu else {}}
    body["spec"]["pools"]["mixed"] = {"maxReplicas": 5}
    return {**body, **({"status": {"disaggregation": status}} if status else {})}


def test_auto_takes_one_pool_where_a_mixed_step_fits_into_the_strictest_tbt_and_else_two() -> None:
    for gpu, pools in (("a100", [Pool.MIXED]), (None, [Pool.PREFILL, Pool.DECODE])):
        service = parse(auto(gpu))
        assert [p.pool for p in service.to_goal().pools] == pools == list(service.pools)
        assert "ms" in service.disaggregation.why


def test_what_auto_came_to_stays_whatever_becomes_of_the_spec() -> None:
    service = parse(auto("a100", {"mode": "Always", "reason": "as it was"}))
    assert list(service.pools) == [Pool.PREFILL, Pool.DECODE]
    assert service.disaggregation.why == "as it was"


def test_auto_counts_the_budget_of_one_form_at_a_time() -> None:
    body = auto("a100")
    body["spec"]["scaling"] = {"gpuBudget": 3}  # the pair takes 1 + 2, the mixed pool 1
    assert parse(body).spec.scaling.gpu_budget == 3
    body["spec"]["scaling"] = {"gpuBudget": 2}
    with pytest.raises(ValueError, match="raise gpuBudget"):
        parse(body)


def test_gpus_that_can_be_named_are_those_that_were_measured() -> None:
    assert get_args(MeasuredGpu) == gpus()
