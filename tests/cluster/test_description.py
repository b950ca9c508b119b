"""What the cluster is made to be: nodes, mounts, image names, progress and messages, without making one."""

import io
import json
import shutil
import time
from pathlib import Path

import pytest

from e2e.cluster import __main__ as command_line
from e2e.cluster import cluster, enclosure, hermetic, kind_cluster, paths, programs, state
from e2e.cluster.host_mounts import HostMount, host_mounts, python_installations
from e2e.cluster.processes import Process
from e2e.cluster.progress import Progress, Step
from e2e.cluster.state import State, Way


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_only_workers_get_the_machines_folders_and_they_cannot_write_them() -> None:
    described = kind_cluster.describe([HostMount(source=Path("/usr"))])
    control_plane, *workers = described["nodes"]
    assert control_plane == {"role": "control-plane"}
    assert [worker["role"] for worker in workers] == ["worker", "worker"]
    for worker in workers:
        assert worker["extraMounts"] == [{"hostPath": "/usr", "containerPath": "/host/usr", "readOnly": True}]


def test_the_kubelet_may_run_on_cgroup_v1() -> None:
    patches = [json.loads(patch) for patch in kind_cluster.describe([])["kubeadmConfigPatches"]]
    assert {"kind": "KubeletConfiguration", "failCgroupV1": False} in patches


def test_a_folder_inside_another_is_not_mounted_twice(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "outer")
    mounts = host_mounts([Path("/usr/local"), tmp_path / "link"], [tmp_path / "outer" / "inner", tmp_path / "outer"])
    assert [mount.source for mount in mounts] == sorted([Path("/usr"), tmp_path / "outer"])


def test_the_root_of_the_machine_is_never_mounted() -> None:
    assert Path("/") not in [mount.source for mount in host_mounts([Path("/")], [])]


def test_the_python_that_an_engine_environment_came_from_is_mounted(own_cache: Path) -> None:
    environment = own_cache / "llmservice" / "engine-env" / "abc"
    environment.mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("home = /opt/python/3.11/bin\nversion = 3.11\n")
    assert Path("/opt/python/3.11") in python_installations()


def test_a_cluster_is_never_guessed_from_half_a_name(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for half in (["--kubeconfig", "/somewhere"], ["--context", "somebody"]):
        assert command_line.main(["up", *half]) == 1
        assert "name both --kubeconfig and --context" in capsys.readouterr().err


def test_without_a_cluster_every_command_says_what_to_do(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["status"], ["kubeconfig"], ["exec", "--", "true"], ["load-image", "x.tar"]):
        assert command_line.main(command) == 1
        assert "run `make cluster`" in capsys.readouterr().err


def test_images_are_not_pushed_into_a_cluster_that_is_not_ours(own_cache: Path) -> None:
    named = cluster.Cluster(way=Way.NAMED, context="c", kubeconfig=own_cache / "k")
    with pytest.raises(cluster.NoClusterError, match="registry"):
        named.load_image(own_cache / "x.tar")


def test_only_our_own_cluster_is_deleted() -> None:
    """On a machine's docker engine there may be clusters of others."""
    told: list[list[str]] = []
    kind_cluster.delete(lambda argv: told.append(argv) or "")
    assert told == [["kind", "delete", "cluster", "--name", "llmservice"]]


@pytest.mark.parametrize("lives", [True, False])
def test_a_cluster_of_another_cache_is_left_alone(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lives: bool
) -> None:
    theirs = own_cache / "theirs"
    theirs.mkdir()
    (own_cache / "owner").write_text(str(theirs))
    if lives:
        (theirs / "state.json").write_text("{}")
    monkeypatch.setattr(enclosure, "OWNER", own_cache / "owner")
    monkeypatch.setattr(enclosure, "is_open", lambda: True)
    monkeypatch.setattr(enclosure, "contains_us", lambda: False)
    downs: list[str] = []
    monkeypatch.setattr(hermetic, "down", lambda: downs.append("down"))
    assert command_line.main(["down"]) == (1 if lives else 0)
    assert downs == ([] if lives else ["down"])
    assert ("another cache is up" in capsys.readouterr().err) is lives


def test_programs_are_kept_by_everything_that_decides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = paths.programs()
    shutil.copytree(paths.PACKAGE, tmp_path / "cluster")
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "cluster")
    paths._programs_key.cache_clear()
    assert paths.programs() == before
    with (tmp_path / "cluster" / "versions.py").open("a") as file:
        file.write('HELM = "v3.99.0"\n')
    paths._programs_key.cache_clear()
    assert paths.programs() != before
    paths._programs_key.cache_clear()


def test_the_state_is_read_back_as_it_was_written(own_cache: Path) -> None:
    engine = Process(name="engine", pid=7, started_ticks=99, log=own_cache / "log")
    written = State(way=Way.HERMETIC, context="c", engine=engine, tunables={"kernel.panic": "1"})
    assert state.load() is None
    state.save(written)
    assert state.load() == written
    state.forget()
    assert state.load() is None


def test_ready_made_programs_are_used_for_a_bare_control_plane_only(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = own_cache / "assets"
    assets.mkdir()
    for name in ("etcd", "kubeadm"):
        (assets / name).touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    assert programs.find("etcd") == assets / "etcd"
    with pytest.raises(programs.MissingProgramError, match="kubeadm is not built yet"):
        programs.find("kubeadm")


def test_progress_tells_the_step_and_what_is_left() -> None:
    out = io.StringIO()
    first, second = Step(title="dig", cold_s=600), Step(title="fill", cold_s=30)
    progress = Progress([first, second], out=out)
    with progress.step(first):
        pass
    with progress.step(second):
        pass
    lines = out.getvalue().splitlines()
    assert lines[0] == "step 1 of 2: dig (about 10 min left)"
    assert lines[2] == "step 2 of 2: fill (about 30 s left)"


def test_a_long_step_reminds_that_it_goes_on_and_never_promises_less_than_the_rest() -> None:
    out = io.StringIO()
    first, second = Step(title="dig", cold_s=0.01), Step(title="fill", cold_s=60)
    with Progress([first, second], out=out, reminder_s=0.02).step(first):
        time.sleep(0.1)
    reminders = [line for line in out.getvalue().splitlines() if "so far" in line]
    assert len(reminders) >= 2
    assert all("(about 61 s left)" in line for line in reminders)


def test_a_failed_step_is_not_called_done() -> None:
    out = io.StringIO()
    step = Step(title="dig", cold_s=1)
    with pytest.raises(ValueError, match="stone"), Progress([step], out=out).step(step):
        raise ValueError("stone")
    assert "done" not in out.getvalue()
