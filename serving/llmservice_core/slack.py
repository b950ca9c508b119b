"""What decode engines may compute of prompts beside their decodes, and when a prompt goes there. Pure; no clock.

Conditional disaggregation: the planner (`planner_slack`) publishes one number with its plan, how fast a decode engine
computes prompts while a mixed step stays within the tightest TBT, as a share of a prefill engine's speed. Routers read
it there and send a prompt to the decode engine alone, in one step and without moving KV, where it ends sooner so.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from llmservice_core.model import Pool

SHARE: Final = f"{Pool.DECODE}.prompt_share"
CHUNK: Final = f"{Pool.DECODE}.prompt_chunk_tokens"
TAKEN: Final = f"{Pool.DECODE}.prompt_taken_share"
"""Names in a plan's capacity, and so in `status.plan.capacity`."""
MOST_HELD_TOKENS: Final = 2048.0
"""Prompt tokens that a decode engine holds at most (our sizing study). So no longer prompt goes there either: it would
take longer there than a strict first token may wait."""


class Candidate(Protocol):
    """What is looked at of an engine: tokens of prompts sent there and not computed, and all its predicted work."""

    @property
    def prompt_tokens(self) -> float: ...

    @property
    def work_tokens(self) -> float: ...


E = TypeVar("E", bound=Candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """`share`: prompt tokens per second of a decode engine beside its decodes, over those of a prefill engine."""

    share: float


def slack_of(capacity: Mapping[str, float | None]) -> Slack | None:
    """As a plan published it; None: decode engines compute no prompts."""
    share = capacity.get(SHARE)
    return Slack(share=share) if isinstance(share, int | float) and share > 0.0 else None


def beside(
    slack: Slack, prompt_tokens: float, prefills: Collection[Candidate], decodes: Sequence[E], saved_tokens: float = 0.0
) -> E | None:
    """The decode engine where this prompt would end sooner than in any prefill engine; None: there is none.

    In time of a prefill engine: (what is in front + the prompt) / share there, and in front + the prompt here, less
    what a prefill engine's cache saves.
    """
    able = [d for d in decodes if d.prompt_tokens + prompt_tokens <= MOST_HELD_TOKENS]
    if not able or not prefills:
        return None
    best = min(able, key=lambda d: (d.prompt_tokens, d.work_tokens))
    ahead = min(p.prompt_tokens for p in prefills)
    is_sooner = (best.prompt_tokens + prompt_tokens) / slack.share < ahead + max(0.0, prompt_tokens - saved_tokens)
    return best if is_sooner else None
