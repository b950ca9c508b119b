"""Which engine has computed the beginning of a prompt before. Hashed blocks, bounded memory; no clock, no I/O.

An engine keeps the KV of whole prompts for a while and reuses what two of them have in common from the beginning on. A
router cannot see that cache; it remembers what it sent where. A block's hash contains the hash of the block before, so
that equal hashes mean equal beginnings, and a seed (the tenant's), so that nobody meets another's blocks.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b

BLOCK_BYTES = 512
"""Of text, about 128 tokens: coarser than the engine's blocks, fine enough for a system prompt."""
BLOCK_TOKENS = 128
MOST_BLOCKS = 512
"""Of one prompt; what comes later is counted as not known."""
BLOCKS_PER_ENGINE = 4096
"""Remembered, the least recently used go first: about half a million tokens, what an 80 GB GPU keeps of an 8B model (at
131,072 bytes each). To remember more than the engine keeps is to wait for what is gone. Half a MiB in the router."""
_HASH_BYTES = 8


def text_blocks(text: bytes, seed: str = "", size: int = BLOCK_BYTES) -> tuple[bytes, ...]:
    """Hashes of the whole blocks of a text, each with all before it."""
    most = min(len(text) // size, MOST_BLOCKS)
    return tuple(_chained((text[i * size : (i + 1) * size] for i in range(most)), seed))


def token_blocks(tokens: Sequence[int], seed: str = "", size: int = BLOCK_TOKENS) -> tuple[bytes, ...]:
    """The same of token ids."""
    most = min(len(tokens) // size, MOST_BLOCKS)
    packed = (array("q", tokens[i * size : (i + 1) * size]).tobytes() for i in range(most))
    return tuple(_chained(packed, seed))


def _chained(blocks: Iterable[bytes], seed: str) -> Iterator[bytes]:
    last = seed.encode()
    for block in blocks:
        last = blake2b(last + block, digest_size=_HASH_BYTES).digest()
        yield last


class PrefixMemory:
    """Blocks of prompts by engine."""

    def __init__(self, blocks_per_engine: int = BLOCKS_PER_ENGINE) -> None:
        self._most = blocks_per_engine
        self._known: dict[str, OrderedDict[bytes, None]] = {}

    def share(self, engine: str, blocks: Sequence[bytes]) -> float:
        """The part of these blocks, from the first on, that were sent there before."""
        known = self._known.get(engine)
        if not known or not blocks:
            return 0.0
        matched = next((i for i, block in enumerate(blocks) if block not in known), len(blocks))
        return matched / len(blocks)

    def sent(self, engine: str, blocks: Sequence[bytes]) -> None:
        """From the end on, so that the end of a prompt is forgotten before its beginning."""
        known = self._known.setdefault(engine, OrderedDict())
        for block in reversed(blocks):
            known[block] = None
            known.move_to_end(block)
        while len(known) > self._most:
            known.popitem(last=False)

    def keep_only(self, engines: Collection[str]) -> None:
        """Engines that are gone took their caches along."""
        for gone in self._known.keys() - set(engines):
            del self._known[gone]


def of_session(session: str, engines: Collection[str]) -> str | None:
    """The engine of a session: the highest of all hashes of (session, engine), so that all routers agree without a
    word, and an engine that comes or goes moves only its own share (rendezvous hashing, Thaler and Ravishankar 1998).
    """

    def weight(engine: str) -> bytes:
        return blake2b(engine.encode(), key=blake2b(session.encode(), digest_size=32).digest()).digest()

    return max(engines, key=weight, default=None)
