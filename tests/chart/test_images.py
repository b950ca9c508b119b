"""Images by content: an unchanged recipe is never built twice, a changed one always is; what they hold."""

import tarfile
from pathlib import Path

import pytest

from e2e.cluster.archive import Image
from e2e.images import accounts, engine_template, recipe, wheel


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


class Counted:
    """A recipe over one file that counts how often it was filled."""

    def __init__(self, source: Path) -> None:
        self.source, self.fills = source, 0

    def recipe(self) -> recipe.Recipe:
        return recipe.Recipe(name="test", version="1", inputs=(self.source,), fill=self._fill)

    def _fill(self, rootfs: Path) -> Image:
        self.fills += 1
        accounts.lay_out(rootfs)
        (rootfs / "etc" / "source").write_bytes(self.source.read_bytes())
        return Image(rootfs=rootfs, user=str(accounts.UID))


@pytest.fixture
def counted(cache: Path) -> Counted:
    (cache / "source").write_text("one")
    return Counted(cache / "source")


def test_an_unchanged_image_is_built_once(counted: Counted) -> None:
    first, second = recipe.build(counted.recipe()), recipe.build(counted.recipe())
    assert counted.fills == 1
    assert (first.reference, first.archive) == (second.reference, second.archive)
    assert first.reference.startswith("localhost/test:1-")


def test_other_content_gives_another_tag(counted: Counted) -> None:
    first = recipe.build(counted.recipe())
    counted.source.write_text("two")
    assert recipe.build(counted.recipe()).reference != first.reference
    assert counted.fills == 2


def test_old_archives_go(counted: Counted) -> None:
    for content in "abcdef":
        counted.source.write_text(content)
        newest = recipe.build(counted.recipe())
    kept = list(recipe.folder().glob("test_*.tar"))
    assert len(kept) == recipe.KEEP_ARCHIVES
    assert newest.archive in kept


def test_a_failed_build_leaves_nothing_behind(counted: Counted) -> None:
    def fail(rootfs: Path) -> Image:
        (rootfs / "half").touch()
        raise OSError("no space left")

    broken = recipe.Recipe(name="test", inputs=(counted.source,), fill=fail)
    with pytest.raises(OSError, match="no space"):
        recipe.build(broken)
    assert [path.name for path in recipe.folder().iterdir()] == [".test.lock"]


def test_the_root_file_system_has_accounts_and_no_root_process(counted: Counted) -> None:
    with tarfile.open(recipe.build(counted.recipe()).archive) as archive:
        (layer,) = [m for m in archive.getmembers() if m.name.endswith(".tar")]
        with tarfile.open(fileobj=archive.extractfile(layer)) as rootfs:
            assert rootfs.getmember("./lib").linkname == "usr/lib"
            assert rootfs.getmember("./tmp").mode == 0o1777
            passwd = rootfs.extractfile("./etc/passwd")
            assert passwd is not None
            assert f":{accounts.UID}:".encode() in passwd.read()


def test_our_wheel_is_unpacked_with_byte_code_that_names_its_place(tmp_path: Path) -> None:
    wheel.unpack(tmp_path)
    compiled = tmp_path / "llmservice_core" / "__pycache__" / "contract.cpython-311.pyc"
    assert f"/{wheel.HOME}/llmservice_core/contract.py".encode() in compiled.read_bytes()
    assert (tmp_path / "llmservice_serving").is_dir()
    assert not (tmp_path / "e2e").exists()


def test_engine_pods_read_the_machine_and_write_nothing_to_it() -> None:
    spec = engine_template.engine_template()["spec"]
    (container,) = spec["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert all(volume["hostPath"]["path"] == f"/host{m['mountPath']}" for volume, m in zip(
        spec["volumes"], container["volumeMounts"], strict=True))  # fmt: skip
    assert "/" not in [mount["mountPath"] for mount in container["volumeMounts"]]
