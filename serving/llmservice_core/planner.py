"""One decision: what was asked for and what was seen in, sizes with reasons out. Pure; the clock is an argument.

    stale? -> demand -> capacity -> size (RAD) -> backlog -> feedback -> unknown? -> sleep? -> stabilise -> limits

Each step leaves its name, the sizes it wished and a sentence in the plan. docs/planner.md has the formulas.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from llmservice_core.capacity import PoolCapacity, pool_capacity
from llmservice_core.model import Goal, Observation, Plan, Pool, PoolGoal, PoolPlan, PoolSeen, Reason, Step
from llmservice_core.planner_backlog import backlog
from llmservice_core.planner_budget import claims_of, told
from llmservice_core.planner_demand import demand, strictest_tbt_s
from llmservice_core.planner_doubt import doubt
from llmservice_core.planner_facts import ALL_STEPS, MOST_START_UP_S, Draft, Drafts, Facts, Settings, Stabilised, each
from llmservice_core.planner_feedback import feedback, is_settled, learned_margin, spent
from llmservice_core.planner_flip import Settled, carried_out, flipped
from llmservice_core.planner_forecast import Errors, continued, learned_errors
from llmservice_core.planner_limits import Fitted, Wish, fit
from llmservice_core.planner_memory import Memory, remember
from llmservice_core.planner_record import capacity_of, inputs_of, load_of, overall, pool_plan
from llmservice_core.planner_slack import published, relieved
from llmservice_core.planner_sleep import SLEEP, rest
from llmservice_core.planner_steps import size, work_of

STALE_INTERVALS = 3.0
STALE_SCRAPE_GAPS = 2.5
"""Metrics are stale when older than both so many plan intervals and so many scrape gaps as observed."""
MIN_STABILIZATION_S = 30.0
DEFAULT_STABILIZATION_S = 120.0


def plan(
    goal: Goal,
    observation: Observation,
    memory: Memory | None,
    now_s: float | None = None,
    settings: Settings = ALL_STEPS,
) -> tuple[Plan, Memory]:
    """The sizes for now, and what to remember. Applied and asked again with the same facts, it changes nothing."""
    now = observation.time_s if now_s is None else now_s
    known = _continued(goal, observation, memory, now)
    observation = replace(observation, start_up_s=observation.start_up_s or known.start_up_s)
    unreadable = _unreadable(goal, observation, now)
    resting = rest(goal, observation, is_readable=unreadable is None)
    facts = _facts(resting.goal, observation, known, now, settings)
    steps: list[Step] = []
    drafts = _present(facts)
    if unreadable is not None:
        reason, why = unreadable
        drafts = {p: replace(d, driver=reason, why=why, is_held=True) for p, d in drafts.items()}
        steps.append(_step("stale", drafts, why))
    else:
        steps.append(_step("stale", drafts, f"newest sample {now - (observation.newest_sample_s or now):.0f} s old"))
        drafts = _wish(facts, drafts, steps)
    if resting.why:
        resting = resting.if_known(drafts)
        facts, drafts = replace(facts, goal=resting.goal), resting.drafts(drafts)
        steps.append(_step(SLEEP, drafts, resting.why))
    settled: Settled = {p.pool: _stabilise(facts, p, drafts[p.pool]) for p in facts.goal.pools}
    steps.append(_settled_step(settled))
    settled, flip = flipped(facts, drafts, settled)
    fitted = _fit(facts, drafts, settled)
    flip = carried_out(flip, {p: s.desired for p, s in facts.pools.items()}, fitted.sizes)
    if flip is not None:
        steps.append(Step(name="flip", sizes={p: float(s.replicas) for p, s in settled.items()}, why=flip.why))
    steps.append(_limits_step(facts.goal, fitted))
    made = replace(_result(facts, drafts, settled, fitted, tuple(steps)), flip=flip)
    return made, _remembered(facts, drafts, settled, unreadable is None).rounded()


def stabilization_s(goal: Goal, observation: Observation) -> float:
    """How long the largest want holds; auto is the start-up time: the ski-rental price of one pod (sizing study)."""
    if goal.stabilization_s is not None:
        return goal.stabilization_s
    if observation.start_up_s is None:
        return DEFAULT_STABILIZATION_S
    return min(MOST_START_UP_S, max(MIN_STABILIZATION_S, observation.start_up_s))


def _continued(goal: Goal, observation: Observation, memory: Memory | None, now_s: float) -> Memory:
    """The memory; its history begins anew when nobody planned for longer than the window that history must fill."""
    if memory is None:
        return Memory(started_s=now_s, updated_s=now_s)
    memory = memory.until(now_s)
    longest_s = stabilization_s(goal, observation) + STALE_INTERVALS * goal.interval_s
    return memory if now_s - memory.updated_s <= longest_s else replace(memory, started_s=now_s)


def _facts(goal: Goal, seen: Observation, memory: Memory, now_s: float, settings: Settings) -> Facts:
    pools = {p.pool: _seen(p, seen) for p in goal.pools}
    strict_s = strictest_tbt_s(goal)
    capacity = {p: pool_capacity(s, strict_s, memory.learned.get(p)) for p, s in pools.items()}
    wanted = demand(goal, seen)
    facts = Facts(
        goal=goal,
        seen=seen,
        now_s=now_s,
        memory=memory,
        demand=wanted,
        pools=pools,
        capacity=capacity,
        work={p: work_of(p, wanted, c) for p, c in capacity.items()},
        settings=settings,
    )
    return replace(facts, errors={p: _errors(facts, p) for p in pools})


def _errors(facts: Facts, pool: Pool) -> Errors:
    errors, work = facts.memory.errors.get(pool, Errors()), facts.work[pool]
    if work.unknown is not None:
        return errors
    return learned_errors(errors, facts.memory.past.get(pool, ()), facts.now_s, work.total, facts.horizon_s)


def _seen(goal: PoolGoal, seen: Observation) -> PoolSeen:
    """The pool as the cluster shows it; one that does not exist yet is about to start at its minimum."""
    nothing = PoolSeen(pool=goal.pool, desired=goal.min_replicas, ready=0, starting=0, draining=0, unschedulable=0)
    return next((p for p in seen.pools if p.pool is goal.pool), nothing)


def _unreadable(goal: Goal, seen: Observation, now_s: float) -> tuple[Reason, str] | None:
    if seen.problem is not None:
        return Reason.METRICS_MISSING, seen.problem
    if seen.newest_sample_s is None:
        return Reason.METRICS_MISSING, "Prometheus has no sample of this service"
    age_s = now_s - seen.newest_sample_s
    limit_s = max(STALE_INTERVALS * goal.interval_s, STALE_SCRAPE_GAPS * (seen.scrape_gap_s or 0.0))
    if age_s > limit_s:
        return Reason.METRICS_STALE, f"the newest sample is {age_s:.0f} s old, more than {limit_s:.0f} s"
    return None


def _present(facts: Facts) -> Drafts:
    return {p: Draft(want=float(s.desired), driver=Reason.STEADY, why="") for p, s in facts.pools.items()}


def _wish(facts: Facts, drafts: Drafts, steps: list[Step]) -> Drafts:
    """Demand to real-valued wishes; every step leaves its line in `steps`."""
    asked = facts.demand
    steps.append(_step("demand", drafts, asked.unknown or f"{asked.arrivals_rps:.2f} req/s: " + _rates(facts)))
    steps.append(_step("capacity", drafts, "; ".join(_capacity_text(c) for c in facts.capacity.values())))
    for name, pool_step in (("size", size), ("backlog", backlog), ("feedback", feedback)):
        before, drafts = drafts, each(pool_step, facts, drafts)
        steps.append(_step(name, drafts, _change(before, drafts)))
    if (less := relieved(facts, drafts)) is not None:
        drafts, why = less
        steps.append(_step("slack", drafts, why))
    before, drafts = drafts, each(doubt, facts, drafts)
    steps.append(_step("unknown", drafts, _change(before, drafts)))
    return drafts


def _rates(facts: Facts) -> str:
    return f"{facts.demand.prompt_tokens_rps:.0f} prompt and {facts.demand.output_tokens_rps:.0f} output tokens/s"


def _capacity_text(c: PoolCapacity) -> str:
    if c.unknown is not None:
        return f"{c.pool}: unknown, {c.unknown}"
    prefill = (
        f"{1000 * c.tau_prefill_s:.3g} ms per prompt token" if c.tau_prefill_s and c.pool is not Pool.DECODE else ""
    )
    decode = ""
    if c.tau_decode_s and c.pool is not Pool.PREFILL:
        decode = f"{1000 * c.tau_decode_s:.3g} ms per output token at width {c.width} ({c.bound})"
    return f"{c.pool}: {' and '.join(t for t in (prefill, decode) if t) or 'not needed'}"


def _change(before: Drafts, after: Drafts) -> str:
    """What a step did: the sentences of the pools that it changed."""
    texts = [f"{p}: {d.why}" for p, d in after.items() if d != before[p] and d.why]
    return "; ".join(texts) or "nothing to add"


def _stabilise(facts: Facts, goal: PoolGoal, draft: Draft) -> Stabilised:
    desired = facts.pools[goal.pool].desired
    wanted = _whole(draft.want, desired, facts.demand.standard_error)
    window_s = stabilization_s(facts.goal, facts.seen)
    recent = remember(facts.memory.wants.get(goal.pool, ()), facts.now_s, wanted, window_s)
    replicas = max(n for _, n in recent)
    is_put_to_sleep = draft.driver is Reason.SCALED_TO_ZERO  # after a time of its own
    if wanted >= desired or is_put_to_sleep or not facts.settings.stabilise:
        return Stabilised(replicas=wanted, wanted=wanted)
    age_s = facts.now_s - facts.memory.started_s
    if age_s < window_s:
        why = f"not reduced in the first {window_s:.0f} s of history ({age_s:.0f} s so far)"
        return Stabilised(replicas=desired, wanted=wanted, held=Reason.WARMING_UP, why=why)
    if min(replicas, desired) > wanted:
        why = f"{replicas} wanted within the last {window_s:.0f} s, {wanted} now"
        return Stabilised(replicas=min(replicas, desired), wanted=wanted, held=Reason.STABILIZING, why=why)
    return Stabilised(replicas=wanted, wanted=wanted)


def _whole(want: float, desired: int, error: float) -> int:
    """Rounded up. Fewer than there are only if they would also do for a demand one standard error higher."""
    wanted = math.ceil(want - 1e-9)
    return wanted if wanted >= desired else min(desired, math.ceil(want * (1.0 + error) - 1e-9))


def _fit(facts: Facts, drafts: Drafts, settled: Mapping[Pool, Stabilised]) -> Fitted:
    weights = {Pool.PREFILL: facts.demand.prefill_weight, Pool.DECODE: facts.demand.decode_weight}
    wishes = [
        Wish(
            goal=p,
            seen=facts.pools[p.pool],
            replicas=settled[p.pool].replicas,
            needed=settled[p.pool].wanted,
            need=max(drafts[p.pool].want, 1e-6),
            weight=weights.get(p.pool, 1.0),
            keeps=drafts[p.pool].keeps,
        )
        for p in facts.goal.pools
    ]
    claims = claims_of(facts, drafts) if facts.settings.slo_gain else ()
    fitted = fit(wishes, facts.goal.gpu_budget, claims)
    return replace(fitted, why=told(claims, fitted.sizes, {w.goal.pool: w.capped for w in wishes}))


def _remembered(facts: Facts, drafts: Drafts, settled: Mapping[Pool, Stabilised], is_readable: bool) -> Memory:
    """Unreadable metrics teach nothing; the present size is then what was wanted, so nothing shrinks on recovery."""
    window_s = stabilization_s(facts.goal, facts.seen)
    before = facts.memory
    learned = {p: c.learned or before.learned.get(p) for p, c in facts.capacity.items()}
    margins = {p: learned_margin(facts, p, drafts[p]) for p in facts.pools} if is_readable else before.margins
    known = {p: w.total for p, w in facts.work.items() if w.unknown is None} if is_readable else {}
    past = {p: continued(before.past.get(p, ()), facts.now_s, u, facts.horizon_s) for p, u in known.items()}
    return Memory(
        started_s=before.started_s,
        updated_s=facts.now_s,
        margins={p: m for p, m in margins.items() if abs(m) > 1e-4},
        spent={p: rows for p in facts.pools if (rows := spent(facts, p))} if is_readable else before.spent,
        wants={p: remember(before.wants.get(p, ()), facts.now_s, s.wanted, window_s) for p, s in settled.items()},
        learned={p: known for p, known in learned.items() if known is not None},
        unsettled_s={p: t for p in facts.pools if (t := _unsettled_s(facts, p, drafts[p])) is not None},
        past={**before.past, **past},
        errors={p: e for p, e in facts.errors.items() if e.count > 0.0} if is_readable else before.errors,
        start_up_s=facts.seen.start_up_s,
    )


def _unsettled_s(facts: Facts, pool: Pool, draft: Draft) -> float | None:
    return facts.memory.unsettled_s.get(pool) if is_settled(facts, pool, draft) else facts.now_s


def _result(
    facts: Facts, drafts: Drafts, settled: Mapping[Pool, Stabilised], fitted: Fitted, steps: tuple[Step, ...]
) -> Plan:
    pools = tuple(_pool_plan(facts, p, drafts[p.pool], settled[p.pool], fitted) for p in facts.goal.pools)
    reason, message = overall(pools, {p: s.desired for p, s in facts.pools.items()})
    return Plan(
        time_s=facts.now_s,
        pools=pools,
        reason=reason,
        message=message,
        inputs=inputs_of(facts),
        capacity={**capacity_of(facts), **published(facts)},
        steps=steps,
        load=load_of(facts),
    )


def _pool_plan(facts: Facts, goal: PoolGoal, draft: Draft, settled: Stabilised, fitted: Fitted) -> PoolPlan:
    return pool_plan(
        goal=goal,
        seen=facts.pools[goal.pool],
        draft=draft,
        replicas=fitted.sizes[goal.pool],
        wanted=settled.replicas,
        held=(settled.held, settled.why) if settled.held else None,
        budget_text=_budget_text(facts.goal, fitted),
    )


def _budget_text(goal: Goal, fitted: Fitted) -> str:
    leaving = f", {fitted.held_gpus} GPUs still held by leaving pods" if fitted.held_gpus else ""
    return f"gpuBudget {goal.gpu_budget}{leaving}"


def _step(name: str, drafts: Drafts, why: str) -> Step:
    return Step(name=name, sizes={p: round(d.want, 3) for p, d in drafts.items()}, why=why)


def _settled_step(settled: Mapping[Pool, Stabilised]) -> Step:
    texts = [f"{p}: {s.why}" for p, s in settled.items() if s.why]
    sizes = {p: float(s.replicas) for p, s in settled.items()}
    return Step(name="stabilise", sizes=sizes, why="; ".join(texts) or "nothing held back")


def _limits_step(goal: Goal, fitted: Fitted) -> Step:
    ranges = ", ".join(f"{p.pool} {p.min_replicas} to {p.max_replicas}" for p in goal.pools)
    sizes = {p: float(n) for p, n in fitted.sizes.items()}
    parts = (ranges, _budget_text(goal, fitted), fitted.why)
    return Step(name="limits", sizes=sizes, why="; ".join(p for p in parts if p))
