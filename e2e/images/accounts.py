"""The few files that a root file system needs before any program runs: folders, links, accounts, name lookup."""

from __future__ import annotations

from pathlib import Path

UID = 65532
"""The user of every image of ours (the number that distroless images made customary); root is never needed."""

FOLDERS = (
    "dev",
    "etc",
    "home",
    "opt",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "var/tmp",
)
LINKS = ("bin", "sbin", "lib", "lib64")
FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/sbin/nologin\nllmservice:x:{UID}:{UID}:llmservice:/tmp:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nllmservice:x:{UID}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def lay_out(rootfs: Path) -> None:
    """Make `rootfs` a root file system with merged /usr, two accounts and nothing to run."""
    for name in FOLDERS:
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    for name in LINKS:
        (rootfs / name).symlink_to(f"usr/{name}")
    for name, text in FILES.items():
        (rootfs / name).write_text(text)
    for name in ("tmp", "var/tmp"):
        (rootfs / name).chmod(0o1777)
