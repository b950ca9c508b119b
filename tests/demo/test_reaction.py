"""The split of the reaction time, on records as the API server gives them."""

from e2e.demo.reaction import Decision, PodTimes, decision_in, pod_times, reaction, seen_again

PLAN = {"time": "2026-01-01T00:00:20Z", "inputs": {"metrics_age_s": 3.0}}
GROWN = {"time": "2026-01-01T00:00:20Z", "from": {"prefill": 1, "decode": 1}, "to": {"prefill": 2, "decode": 1}}
SERVICE = {"status": {"plan": PLAN, "history": [GROWN]}}
START_S = 1767225600.0  # 2026-01-01T00:00:00Z


def test_the_three_parts_add_up() -> None:
    decision = decision_in(SERVICE, START_S + 10, "prefill")
    pods = [PodTimes(pool="prefill", created_s=START_S + 20, ready_s=START_S + 50)]
    seen = reaction(START_S + 10, decision, pods, "prefill")
    assert (seen.metric_s, seen.decision_s, seen.pod_start_s) == (7.0, 3.0, 30.0)


def test_only_pods_made_after_the_decision_count() -> None:
    decision = Decision(pool="decode", time_s=100.0, sample_s=None)
    pods = [PodTimes(pool="decode", created_s=90.0, ready_s=101.0), PodTimes(pool="prefill", created_s=101, ready_s=1)]
    assert reaction(90.0, decision, pods, "decode").pod_start_s is None


def test_a_change_of_another_pool_or_before_the_load_step_is_no_decision() -> None:
    assert decision_in(SERVICE, START_S + 10, "decode") is None
    assert decision_in(SERVICE, START_S + 21, "prefill") is None


def test_a_later_plan_in_the_status_leaves_the_age_of_the_sample_unknown() -> None:
    later = {"status": {"plan": {**PLAN, "time": "2026-01-01T00:00:25Z"}, "history": [GROWN]}}
    decision = decision_in(later, START_S + 10, "prefill")
    assert decision == Decision(pool="prefill", time_s=START_S + 20, sample_s=None)


def test_pods_as_the_api_server_lists_them() -> None:
    pod = {
        "metadata": {
            "name": "a",
            "labels": {"llmservice.dev/pool": "decode"},
            "creationTimestamp": "2026-01-01T00:00:01Z",
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:31Z"}]},
    }
    assert pod_times([pod]) == {"a": PodTimes(pool="decode", created_s=START_S + 1, ready_s=START_S + 31)}


def test_a_pod_that_left_was_ready_when_it_was() -> None:
    ready, leaving = (PodTimes(pool="decode", created_s=10.0, ready_s=at_s) for at_s in (35.0, None))
    seen = seen_again(seen_again({}, {"a": leaving}), {"a": ready, "b": leaving})
    assert seen_again(seen, {"a": leaving, "b": ready}) == {"a": ready, "b": ready}
