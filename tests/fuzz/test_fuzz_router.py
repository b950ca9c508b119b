"""Bad requests at a real router over real sockets: never a 500 of ours, never a hanging client, nothing left behind.

A share of them in every run, 10,000 by `make fuzz`.
"""

import asyncio
import json
import re
from pathlib import Path

from tests.fuzz.scale import SHOTS
from tests.fuzz.shots import Shot, shot
from tests.fuzz.target import Target, fire, target

AT_ONCE = 24
WARM = 200
"""Shots before the first look at memory: what is allocated once is no leak."""
STATUS = re.compile(rb"^HTTP/\d\.\d (\d{3}) ", re.MULTILINE)
"""aiohttp answers in the version that was asked in, whatever it was."""
SPARE_DESCRIPTORS = 12
"""Connections to engines that are kept for the next request."""
GROWTH_MIB = 24.0
"""What an allocator may hold on to after bodies of 8 MiB: measured 4 to 9 MiB after 10,000 shots."""


def complaint(one: Shot, answer: bytes) -> str:
    """What is wrong with an answer; empty when nothing is. The fakes do not fail: a 502 would be wrong, too."""
    codes = [int(code) for code in STATUS.findall(answer)]
    if wrong := [code for code in codes if code >= 500]:
        return f"{one.kind}: {wrong[0]}: {answer[-300:]!r}"
    if answer and not answer.startswith(b"HTTP/"):
        return f"{one.kind}: no HTTP: {answer[:100]!r}"
    top, _, body = answer.rpartition(b"\r\n\r\n")
    if len(codes) == 1 and codes[0] >= 400 and body and b"application/json" in top:
        error = json.loads(body).get("error")
        if not isinstance(error, dict) or not error.get("message"):
            return f"{one.kind}: not in OpenAI's shape: {body[:200]!r}"
    return ""


async def volley(found: Target, numbers: range) -> list[str]:
    """Many clients at once; each complaint with the number of its shot."""
    complaints, waiting = [], iter(numbers)

    async def client() -> None:
        for number in waiting:
            one = shot(number)
            try:
                said = complaint(one, await fire(found, one))
            except TimeoutError:
                said = f"{one.kind}: no end of the answer: {one.steps!r:.200}"
            except (ValueError, ConnectionError) as error:
                said = f"{one.kind}: {error}"
            complaints.extend([f"shot {number}: {said}"] * bool(said))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(client())
    return complaints


async def test_bad_requests_break_nothing_and_leave_nothing(tmp_path: Path) -> None:
    async with target(tmp_path) as found:
        complaints = await volley(found, range(WARM))
        files = await found.settled(0, within_s=3.0)
        memory_mib = found.memory_mib()
        complaints += await volley(found, range(WARM, WARM + SHOTS))
        left, grown_mib = await found.settled(files), found.memory_mib() - memory_mib
        held = await found.held()
        is_alive = found.process.returncode is None
        log = found.log.read_text(errors="replace")
    print(f"{SHOTS} shots: descriptors {files} -> {left}, memory {memory_mib:.1f} MiB, grown by {grown_mib:.1f} MiB")
    assert not complaints, "\n".join(complaints[:40])
    assert is_alive
    assert [line for line in log.splitlines() if "fault of the router" in line or "Traceback" in line] == []
    assert held == 0
    assert left <= files + SPARE_DESCRIPTORS
    assert grown_mib < GROWTH_MIB


def test_a_shot_is_the_same_whenever_it_is_made() -> None:
    assert [shot(n) for n in range(50)] == [shot(n) for n in range(50)]
    assert len({shot(n).kind for n in range(400)}) == 14
