"""Agreement (d): the run that was recorded on kind, simulated again, beside what happened (bench/data/kind-run)."""

from pathlib import Path

import pytest

from e2e.scaling import recording, side, simulate
from llmservice_core import planner_feedback

FOLDER = Path(__file__).parents[2] / "bench" / "data" / "kind-run"
RECORDINGS = sorted(FOLDER.glob("*.json.gz"))


@pytest.fixture
def recorded_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator that was recorded learned from every miss of a settled pool, and gave nothing back: so does the
    simulated one, for what is compared is the cluster and not the planner's constants."""
    for name, value in (("NEARLY_SPENT", 0.0), ("UNSETTLED_SHARE", 0.0), ("RELEASE_BELOW", 0.0)):
        monkeypatch.setattr(planner_feedback, name, value)


@pytest.mark.usefixtures("recorded_planner")
@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.name)
def test_the_simulation_of_the_recorded_load(file: Path) -> None:
    found = recording.read(file)
    sides = side.sides(found, simulate.simulated(found))
    print(side.text(sides))
    assert found.facts["overrun_share"] <= 0.05, "a run on a busy machine says nothing of the simulator"
    assert sides.is_agreed, side.text(sides)
