"""Agreement (d): the run that was recorded on kind, simulated again, beside what happened (bench/data/kind-run)."""

from pathlib import Path

import pytest

from e2e.scaling import recording, side, simulate

FOLDER = Path(__file__).parents[2] / "bench" / "data" / "kind-run"
RECORDINGS = sorted(FOLDER.glob("*.json.gz"))


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.name)
def test_the_simulation_of_the_recorded_load(file: Path) -> None:
    found = recording.read(file)
    sides = side.sides(found, simulate.simulated(found))
    print(side.text(sides))
    assert found.facts["overrun_share"] <= 0.02, "a run on a busy machine says nothing of the simulator"
    assert sides.is_agreed, side.text(sides)
