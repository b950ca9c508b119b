"""Folders of API keys as tests need them: plain ones, and as the kubelet mounts a Secret."""

import os
from pathlib import Path
from typing import Any

import yaml

ACME, ACME_NEW = "sk-acme-" + "a" * 40, "sk-acme-" + "n" * 40
BETA, GAMMA = "sk-beta-" + "b" * 40, "sk-gamma-" + "g" * 40
UNKNOWN = "sk-nobody-" + "x" * 40
TENANTS: dict[str, dict[str, Any]] = {
    "acme": {"keys": [ACME]},
    "beta": {"keys": [BETA], "classes": ["interactive"]},
    "gamma": {"keys": [GAMMA], "defaultClass": "interactive", "tokensPerMinute": 60_000},
}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def folder(root: Path, tenants: dict[str, Any] = TENANTS) -> Path:
    """One file per tenant; a text stands for itself."""
    made = root / "keys"
    made.mkdir(exist_ok=True)
    for old in made.iterdir():
        old.unlink()
    for name, said in tenants.items():
        (made / name).write_text(said if isinstance(said, str) else yaml.safe_dump(said))
    return made


def mount(root: Path, tenants: dict[str, Any], version: int = 1) -> Path:
    """As the kubelet does it: a new folder, then the link to it moves, and each name is a link through that one."""
    made, data = root / "mounted", root / "mounted" / f"..v{version}"
    data.mkdir(parents=True)
    for name, said in tenants.items():
        (data / name).write_text(yaml.safe_dump(said))
    link = made / "..data_tmp"
    link.symlink_to(data.name)
    os.replace(link, made / "..data")
    for path in made.iterdir():
        if not path.name.startswith(".."):
            path.unlink()
    for name in tenants:
        (made / name).symlink_to(f"..data/{name}")
    return made
