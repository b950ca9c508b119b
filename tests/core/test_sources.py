"""Which of several sources of the same process counts."""

from llmservice_core.samples import Series
from llmservice_core.sources import one_source


def series(name: str, end_s: float, start_s: float = 0.0, **labels: str) -> Series:
    times = [start_s, end_s]
    return Series(name=name, labels={"__name__": name, **labels}, times=times, values=[0.0, 1.0])


def kept(*given: Series) -> list[tuple[str, str]]:
    return [(s.name, s.labels.get("job", "")) for s in one_source(given)]


def test_one_source_is_left_alone() -> None:
    given = [series(n, 60.0, pod=p, instance=p, job="a") for p in ("p", "q") for n in ("x", "y")]
    assert one_source(given) == given


def test_all_series_of_a_process_come_from_one_source() -> None:
    given = [series(n, 60.0 + i, pod="p", instance="p", job=j) for n in ("x", "y") for i, j in enumerate("ab")]
    assert len({job for _, job in kept(*given)}) == 1
    assert sorted(name for name, _ in kept(*given)) == ["x", "y"]
    assert kept(*given) == kept(*given[::-1])[::-1], "whatever the order of the answer"


def test_a_source_that_stopped_is_left() -> None:
    stopped, lives = series("x", 60.0, pod="p", job="a"), series("x", 120.0, 90.0, pod="p", job="b")
    assert kept(stopped, lives) == [("x", "b")]


def test_a_young_source_waits_until_it_knows_as_much() -> None:
    old, young = series("x", 600.0, pod="p", job="b"), series("x", 600.0, 500.0, pod="p", job="a")
    assert kept(old, young) == [("x", "b")]


def test_labels_of_ours_tell_series_apart_not_sources() -> None:
    given = [series("x", 60.0, pod="p", instance="i", **{"class": c, "target": t}) for c in "ab" for t in "12"]
    assert one_source(given) == given


def test_processes_that_nobody_names_are_all_kept() -> None:
    """Without pod and instance two routers may be told apart by a label of others only."""
    assert len(kept(series("x", 60.0, job="a"), series("x", 60.0, job="b"))) == 2


def test_two_processes_of_one_pod_are_two() -> None:
    """An engine's own port and vLLM's."""
    given = [series("x", 60.0, pod="p", instance=f"10.0.0.1:{port}", endpoint=str(port)) for port in (9400, 8000)]
    assert len(one_source(given)) == 2
