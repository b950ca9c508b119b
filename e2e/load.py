"""An open-loop load generator for an OpenAI endpoint: Poisson arrivals, classes, lengths from a trace.

It measures what a client sees (TTFT, gaps between chunks, failures) and never decides anything. Sends only where it is
told; tests and the demo point it at their own cluster.
"""

import asyncio
import csv
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from llmservice_core.contract import HEADER_CLASS
from llmservice_sim.traces import Row

LENGTHS = Path(__file__).parents[1] / "bench" / "data" / "sharegpt" / "lengths.csv"
ALPHABET = "abcdefghijklmnopqrstuvwxyz     "


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Which rows of the trace a phase draws from, in tokens of the trace."""

    prompt: tuple[int, int] = (1, 8192)
    output: tuple[int, int] = (1, 1024)

    def rows(self, trace: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return [
            (p, o) for p, o in trace if self.prompt[0] <= p <= self.prompt[1] and self.output[0] <= o <= self.output[1]
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    name: str
    seconds: float
    rate_rps: float
    lengths: Lengths = field(default_factory=Lengths)


@dataclass(slots=True, kw_only=True)
class Sample:
    """One request as the client saw it. `ttft_s` None: no token came. `error` None: the whole answer came."""

    service_class: str
    phase: str
    sent_s: float
    prompt_tokens: int
    asked_tokens: int
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None
    done_s: float | None = None


def read_trace(path: Path = LENGTHS) -> list[tuple[int, int]]:
    """(prompt, output) token counts, one pair per row."""
    with path.open() as file:
        rows = csv.reader(line for line in file if not line.startswith("#"))
        next(rows)
        return [(int(prompt), int(output)) for prompt, output in rows]


class Load:
    """Sends the phases one after the other and keeps every sample; `samples` may be read while it runs."""

    def __init__(
        self, *, url: str, model: str, classes: dict[str, float], scale: int, seed: int = 0, trace: Path = LENGTHS
    ) -> None:
        self.url, self.model, self.scale = url.rstrip("/"), model, scale
        self.names, self.weights = list(classes), list(classes.values())
        self.random = random.Random(seed)
        self.trace = read_trace(trace)
        self.samples: list[Sample] = []
        self.phase: Phase | None = None
        self.phase_started_s = 0.0

    async def run(self, phases: Sequence[Phase], on_phase: Callable[[Phase], None] = lambda _: None) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            pending: set[asyncio.Task[None]] = set()
            for phase in phases:
                self.phase, self.phase_started_s = phase, time.time()
                on_phase(phase)
                await self._send_phase(session, phase, pending)
            await asyncio.gather(*pending)

    async def replay(self, name: str, rows: Sequence[Row]) -> None:
        """Each request of a trace at its own time, with its own class, if it has one."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)
        self.phase = Phase(name=name, seconds=rows[-1].time_s, rate_rps=len(rows) / max(1.0, rows[-1].time_s))
        self.phase_started_s, loop = time.time(), asyncio.get_running_loop()
        began = loop.time()
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
            pending = []
            for row in rows:
                await asyncio.sleep(max(0.0, began + row.time_s - loop.time()))
                lengths = (row.prompt_tokens, row.output_tokens)
                pending.append(asyncio.create_task(self._one(session, self.phase, lengths, row.service_class)))
            await asyncio.gather(*pending)

    async def _send_phase(self, session: aiohttp.ClientSession, phase: Phase, pending: set[asyncio.Task[None]]) -> None:
        rows = phase.lengths.rows(self.trace)
        loop = asyncio.get_running_loop()
        due = loop.time()
        end = due + phase.seconds
        while (due := due + self.random.expovariate(phase.rate_rps)) < end:
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(self._one(session, phase, self.random.choice(rows)))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.sleep(max(0.0, end - loop.time()))

    async def _one(
        self, session: aiohttp.ClientSession, phase: Phase, row: tuple[int, int], named: str | None = None
    ) -> None:
        prompt, output = (max(1, round(n / self.scale)) for n in row)
        (service_class,) = [named] if named else self.random.choices(self.names, self.weights)
        sample = Sample(
            service_class=service_class,
            phase=phase.name,
            sent_s=time.time(),
            prompt_tokens=prompt,
            asked_tokens=output,
        )
        self.samples.append(sample)
        text = "".join(self.random.choices(ALPHABET, k=prompt))
        body = {
            "model": self.model, "prompt": text, "max_tokens": output, "ignore_eos": True, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        try:
            headers = {HEADER_CLASS: service_class}
            async with session.post(f"{self.url}/v1/completions", json=body, headers=headers) as reply:
                await self._read(reply, sample)
        except (aiohttp.ClientError, TimeoutError) as error:
            sample.error = f"{type(error).__name__}: {error}"
        sample.done_s = time.time()

    async def _read(self, reply: aiohttp.ClientResponse, sample: Sample) -> None:
        if reply.status != 200:
            sample.error = f"HTTP {reply.status}: {(await reply.text())[:200]}"
            return
        last_s = None
        ended = False
        async for line in reply.content:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                ended = True
                continue
            event = json.loads(data)
            if "error" in event:
                sample.error = str(event["error"])[:200]
                return
            if event.get("usage"):
                sample.tokens = event["usage"]["completion_tokens"]
            if event.get("choices") and event["choices"][0].get("text") is not None:
                last_s = self._chunk(sample, last_s)
        if not ended or sample.tokens != sample.asked_tokens:
            sample.error = f"truncated: {sample.tokens} of {sample.asked_tokens} tokens, end marker {ended}"

    @staticmethod
    def _chunk(sample: Sample, last_s: float | None) -> float:
        now_s = time.time()
        if last_s is None:
            sample.ttft_s = now_s - sample.sent_s
        else:
            sample.gaps_s.append(now_s - last_s)
        return now_s
