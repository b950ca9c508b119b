"""Reads the folder with one file per tenant, and notices when it changes. Decides nothing about requests.

In a pod the folder is a mounted Secret: the kubelet writes a new folder beside the old one and moves the link `..data`,
so that all files change at once. The router needs no right to read Secrets, so the operator need not hold it either.
"""

import asyncio
import logging
import os
from pathlib import Path

from llmservice_serving.router.client_side import log_line
from llmservice_serving.router.door import Door
from llmservice_serving.router.keys import MOST_TENANTS, BadKeys, Keyring, parse

DATA = "..data"
LOOK_EVERY_S = 1.0
MOST_BYTES = 1 << 20
"""Of one file; a whole Secret holds no more."""
Look = tuple[object, ...]


def look(folder: Path) -> Look:
    """Changes when a file does: where the files lie, their names, times, sizes and places on disk."""
    root = _root(folder)
    stats = [(path.name, path.stat()) for path in _files(root)]
    return root, *((name, s.st_mtime_ns, s.st_size, s.st_ino) for name, s in stats)


def read(folder: Path) -> Keyring:
    """All tenants. BadKeys says what is wrong, without a word of what the files hold."""
    try:
        return parse({path.name: _text(path) for path in _files(_root(folder))})
    except OSError as error:
        raise BadKeys(f"the folder of keys cannot be read: {os.strerror(error.errno or 0)}") from None


async def follow(door: Door, folder: Path, seen: Look | None) -> None:
    """For as long as the router lives. A folder that cannot be read is tried again each time."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        seen, found = await asyncio.to_thread(read_if_changed, folder, seen)
        if found is not None:
            put(door, found)


def read_if_changed(folder: Path, seen: Look | None) -> tuple[Look | None, Keyring | BadKeys | None]:
    """How it looks now (None: that cannot be told), and what was read if that differs from `seen`.

    Looked at before it is read: what changes in between is read again the next time.
    """
    try:
        now = look(folder)
    except OSError:
        now = None
    if now is not None and now == seen:
        return now, None
    try:
        return now, read(folder)
    except BadKeys as error:
        return now, error


def put(door: Door, found: Keyring | BadKeys) -> None:
    """Into force what is good; of what is not, say so once."""
    if isinstance(found, Keyring):
        door.use(found)
        log_line(logging.INFO, "keys_read", tenants=len(found.tenants), keys=found.key_count)
        return
    why = str(found)
    if why != door.problem:
        in_force = "the last good ones" if door.keyring else "none, so everybody is refused"
        log_line(logging.ERROR, "keys_unreadable", detail=why, in_force=in_force)
    door.refuse(why)


def _root(folder: Path) -> Path:
    data = folder / DATA
    return data.resolve() if data.is_symlink() else folder


def _files(root: Path) -> list[Path]:
    """Without what begins with a dot: the kubelet's own links, an editor's leavings."""
    found = sorted(path for path in root.iterdir() if not path.name.startswith(".") and path.is_file())
    return found[: MOST_TENANTS + 1]


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise BadKeys(f"an entry is larger than {MOST_BYTES} bytes")
    return text
