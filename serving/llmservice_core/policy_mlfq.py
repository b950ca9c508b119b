"""Skip-join multi-level feedback queue: whoever has had little service goes first, prompts and decodes alike.

FastServe (Wu et al., arXiv 2305.05920; NSDI 2026). A request joins the level whose quantum covers its whole prompt;
it sinks when it has used its level's quantum; one that starves rises to the top. FastServe swaps the KV of
sunken requests to the host. Here it stays: a sunken decode waits for budget that is left, and nobody is evicted.
"""

from __future__ import annotations

from llmservice_core.steps import Mode, Plain, StepPlan, Task, View, fitting, packed


class Mlfq(Plain):
    """Quanta in tokens of work: level i holds up to `quantum * growth**i`. A token of an answer costs `output_weight`
    tokens of prompt. `starve_s`: a decode that waited so long is served now; a prompt after `guard_s`."""

    def __init__(
        self,
        name: str = "mlfq",
        *,
        quantum: int = 512,
        growth: float = 2.0,
        levels: int = 6,
        output_weight: float = 5.0,
        starve_s: float = 1.0,
        guard_s: float | None = 60.0,
        most_candidates: int = 64,
    ) -> None:
        self.name, self.guard_s = name, guard_s
        self._quanta = [quantum * growth**i for i in range(levels - 1)]
        self._output_weight, self._starve_s = output_weight, starve_s
        self._most_candidates = most_candidates

    def level(self, task: Task) -> int:
        """0 is the top. Service is the prompt's work, then what each token of the answer adds."""
        service = task.prompt_tokens + self._output_weight * task.produced
        return sum(service > quantum for quantum in self._quanta)

    def queue_key(self, task: Task) -> tuple[float, ...]:
        return (self.level(task), task.arrival_s)

    def plan(self, view: View) -> StepPlan:
        starved = [d for d in view.decodes if self._is_starved(d, view.now_s)]
        others = [d for d in view.decodes if not self._is_starved(d, view.now_s)]
        left = view.budget_tokens - len(starved)
        fresh = fitting(view, view.waiting.first(self._most_candidates), left)
        prompts = sorted([*view.started, *fresh], key=lambda p: (not p.produced, self.level(p), p.arrival_s))
        top = self.level(prompts[0]) if prompts else len(self._quanta) + 1
        before = sorted((d for d in others if self.level(d) <= top), key=self._rank)
        behind = sorted((d for d in others if self.level(d) > top), key=self._rank)
        serve = [*starved, *before]
        return StepPlan(
            mode=Mode.MIXED if not behind else Mode.PREFILL,
            serve=serve,
            later=behind,
            chunks=packed(prompts, max(0, view.budget_tokens - len(serve))),
            budget_tokens=view.budget_tokens,
        )

    def _is_starved(self, d: Task, now_s: float) -> bool:
        return d.last_token_s is not None and now_s - d.last_token_s > self._starve_s

    def _rank(self, d: Task) -> tuple[float, ...]:
        return (self.level(d), d.arrival_s)
