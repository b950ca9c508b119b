"""What a container runtime relies on in our image archives: names, hashes, order, and bytes that repeat."""

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.archive import Image, write_archive


def make_rootfs(folder: Path, text: str = "hello") -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tool").write_text(text)
    (folder / "bin" / "tool").chmod(0o755)
    (folder / "sh").symlink_to("bin/tool")
    return folder


def read_json(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(name)
        assert member is not None
        return json.load(member)


def read_member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(name)
        assert member is not None
        return member.read()


def test_the_same_folders_give_the_same_bytes_whenever_they_were_made(tmp_path: Path) -> None:
    first, second = make_rootfs(tmp_path / "a"), make_rootfs(tmp_path / "b")
    os.utime(second / "bin" / "tool", (1, 1))
    write_archive(tmp_path / "1.tar", {"localhost/a:1": Image(rootfs=first)})
    write_archive(tmp_path / "2.tar", {"localhost/a:1": Image(rootfs=second)})
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_every_blob_is_named_by_its_own_hash_and_the_config_names_the_layer(tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    write_archive(out, {"localhost/a:1": Image(rootfs=make_rootfs(tmp_path / "a"))})
    [entry] = read_json(out, "manifest.json")
    layer = read_member(out, entry["Layers"][0])
    config = read_member(out, entry["Config"])
    assert entry["Layers"] == [hashlib.sha256(layer).hexdigest() + ".tar"]
    assert entry["Config"] == hashlib.sha256(config).hexdigest() + ".json"
    assert json.loads(config)["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]


def test_process_settings_reach_the_config(tmp_path: Path) -> None:
    image = Image(
        rootfs=make_rootfs(tmp_path / "a"),
        entrypoint=("/bin/tool", "--fast"),
        env={"MODE": "x"},
        user="1000:1000",
        workdir="/data",
    )
    write_archive(tmp_path / "out.tar", {"localhost/a:1": image})
    [entry] = read_json(tmp_path / "out.tar", "manifest.json")
    config = read_json(tmp_path / "out.tar", entry["Config"])["config"]
    assert config["Entrypoint"] == ["/bin/tool", "--fast"]
    assert config["User"] == "1000:1000"
    assert config["WorkingDir"] == "/data"
    assert "MODE=x" in config["Env"]
    assert any(item.startswith("PATH=") for item in config["Env"])


def test_repositories_come_first_and_hold_every_image(tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    images = {
        "localhost:5000/team/a:1": Image(rootfs=make_rootfs(tmp_path / "a")),
        "localhost/b:2": Image(rootfs=make_rootfs(tmp_path / "b", text="other")),
    }
    write_archive(out, images)
    with tarfile.open(out) as tar:
        assert tar.getnames()[:2] == ["repositories", "manifest.json"]
    repositories = read_json(out, "repositories")
    assert {name: list(tags) for name, tags in repositories.items()} == {
        "localhost:5000/team/a": ["1"],
        "localhost/b": ["2"],
    }


def test_two_images_of_one_folder_share_one_layer(tmp_path: Path) -> None:
    rootfs = make_rootfs(tmp_path / "a")
    out = tmp_path / "out.tar"
    write_archive(out, {"localhost/a:1": Image(rootfs=rootfs), "localhost/a:2": Image(rootfs=rootfs, user="7")})
    with tarfile.open(out) as tar:
        assert sum(name.endswith(".tar") for name in tar.getnames()) == 1


def test_files_in_the_layer_belong_to_root_and_keep_mode_and_links(tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    write_archive(out, {"localhost/a:1": Image(rootfs=make_rootfs(tmp_path / "a"))})
    [entry] = read_json(out, "manifest.json")
    (tmp_path / "layer.tar").write_bytes(read_member(out, entry["Layers"][0]))
    with tarfile.open(tmp_path / "layer.tar") as layer:
        tool, link = layer.getmember("./bin/tool"), layer.getmember("./sh")
    assert (tool.uid, tool.gid, tool.mode, tool.mtime) == (0, 0, 0o755, 0)
    assert link.linkname == "bin/tool"


def test_a_missing_folder_leaves_no_half_written_archive(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="no root file system"):
        write_archive(tmp_path / "out.tar", {"localhost/a:1": Image(rootfs=tmp_path / "none")})
    assert list(tmp_path.iterdir()) == []
