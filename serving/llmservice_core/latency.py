"""How long an engine step takes on a measured GPU. Pure arithmetic on a frozen table; reads nothing, knows no clock.

step = overhead + layers x (linear(T) + elementwise(T) + attention) + head, T = prompt tokens + decodes of the step.
Linear layers cost the same up to a tile edge and then jump, so T is looked up at the next higher measured T, never
interpolated (on cards measured at every T this was up to four times more exact near an edge). Attention is the fitted
sum of bench/data/step-times/README.md, with coefficients of its own for steps that mix chunks and decodes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One step, as the sums that its time depends on.

    `attention_tokens2` is sum q (c + q / 2) over chunks of q new tokens on c cached ones, `context_tokens` sum (c + q).
    """

    new_tokens: float = 0.0
    attention_tokens2: float = 0.0
    context_tokens: float = 0.0
    chunks: float = 0.0
    decodes: float = 0.0
    decode_kv_tokens: float = 0.0

    @property
    def tokens(self) -> float:
        return self.new_tokens + self.decodes

    def scaled(self, scale: float) -> Work:
        """The step of which this is a model 1/scale as long and 1/scale as wide (chunks stay as many)."""
        return Work(
            new_tokens=scale * self.new_tokens,
            attention_tokens2=scale**2 * self.attention_tokens2,
            context_tokens=scale * self.context_tokens,
            chunks=self.chunks,
            decodes=scale * self.decodes,
            decode_kv_tokens=scale**2 * self.decode_kv_tokens,
        )


def work(prefill: Sequence[tuple[int, int]] = (), decode_kv: Sequence[int] = ()) -> Work:
    """Sums over chunks (new tokens, cached tokens) and over the KV lengths of the decodes."""
    return Work(
        new_tokens=sum(q for q, _ in prefill),
        attention_tokens2=sum(q * (c + q / 2) for q, c in prefill),
        context_tokens=sum(c + q for q, c in prefill),
        chunks=len(prefill),
        decodes=len(decode_kv),
        decode_kv_tokens=sum(decode_kv),
    )


def batch_work(new: Sequence[int], cached: Sequence[int], most_decode_tokens: int = 1) -> Work:
    """Sums over what an engine scheduled: new tokens and tokens computed before, of each request. A request whose cache
    gets one more token (or as many as are speculated) costs what a decode does.

    An engine adds this up in every step: chunks are few, so sums over all less those of the chunks are the decodes'.
    """
    chunks = [(q, c) for q, c in zip(new, cached, strict=True) if q > most_decode_tokens or not c]
    new_tokens, context = sum(q for q, _ in chunks), sum(c + q for q, c in chunks)
    tokens = sum(new)
    return Work(
        new_tokens=float(new_tokens),
        attention_tokens2=float(sum(q * (c + q / 2) for q, c in chunks)),
        context_tokens=float(context),
        chunks=float(len(chunks)),
        decodes=float(tokens - new_tokens),
        decode_kv_tokens=float(sum(cached) + tokens - context),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Microseconds per layer: base + sums; the last coefficient takes the mean KV length of the decodes."""

    base_us: float
    per_attention_token2_us: float = 0.0
    per_new_token_us: float = 0.0
    per_context_token_us: float = 0.0
    per_decode_kv_token_us: float = 0.0
    per_decode_us: float = 0.0
    per_mean_kv_token_us: float = 0.0

    def layer_us(self, w: Work) -> float:
        return (
            self.base_us
            + self.per_attention_token2_us * w.attention_tokens2
            + self.per_new_token_us * w.new_tokens
            + self.per_context_token_us * w.context_tokens
            + self.per_decode_kv_token_us * w.decode_kv_tokens
            + self.per_decode_us * w.decodes
            + (self.per_mean_kv_token_us * w.decode_kv_tokens / w.decodes if w.decodes else 0.0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """A model on a GPU. `mixed` None: mixed attention was never measured there, the two kinds are added."""

    name: str
    layers: int
    overhead_s: float
    tokens: tuple[int, ...]
    linear_us: tuple[float, ...]
    elementwise_us: tuple[float, ...]
    prefill: Attention
    decode: Attention
    mixed: Attention | None
    head_base_us: float
    head_per_sequence_us: float
    kv_bytes_per_token: int

    def step_s(self, prefill: Sequence[tuple[int, int]] = (), decode_kv: Sequence[int] = ()) -> float:
        """Seconds of a step with these chunks (new, cached) and these decodes (KV length each)."""
        return self.work_s(work(prefill, decode_kv))

    def work_s(self, w: Work) -> float:
        if w.tokens <= 0:
            return 0.0
        layer_us = self.token_us(w.tokens) + self.attention_us(w)
        head_us = self.head_base_us + self.head_per_sequence_us * (w.chunks + w.decodes)
        return self.overhead_s + (self.layers * layer_us + head_us) * 1e-6

    def token_us(self, tokens: float) -> float:
        """Linear (next higher measured T) plus elementwise time of one layer; beyond the table in proportion to T."""
        last = self.tokens[-1]
        if tokens > last:
            return (self.linear_us[-1] + self.elementwise_us[-1]) * tokens / last
        at = bisect_left(self.tokens, tokens)
        return self.linear_us[at] + self._elementwise_us(tokens, at)

    def _elementwise_us(self, tokens: float, at: int) -> float:
        high = self.elementwise_us[at]
        if at == 0 or tokens == self.tokens[at]:
            return high
        low, left, right = self.elementwise_us[at - 1], self.tokens[at - 1], self.tokens[at]
        return low + (high - low) * (tokens - left) / (right - left)

    def attention_us(self, w: Work) -> float:
        if not w.decodes:
            return self.prefill.layer_us(w)
        if not w.new_tokens:
            return self.decode.layer_us(w)
        if self.mixed is not None:
            return self.mixed.layer_us(w)
        return self.prefill.layer_us(w) + self.decode.layer_us(w)
