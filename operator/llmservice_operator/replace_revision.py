"""The old revision gives way to the new one, as far as the GPUs go: what lives is counted for the core (`replacing`).

Where both fit, the new one starts beside the old one and the old one goes as a whole (`rollout.py`). Where they do not,
the core takes one set of engines after the other. What was decided stands on the Deployments all the time: only their
replicas differ from it meanwhile. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llmservice_api.resource import LLMService
from llmservice_core import contract, replacing
from llmservice_core.model import Pool
from llmservice_core.replacing import Scene, Side, Step
from llmservice_operator import observe_pods, rollout
from llmservice_operator.child_parts import ANNOTATION_ROLLOUT
from llmservice_operator.children import Partial
from llmservice_operator.kinds import Manifest, annotations_of, labels_of, name_of
from llmservice_operator.leaving import Room, is_alive

UNPLACED_S = 60.0
"""So long a pod of the new revision may find no node: somebody may free or bring one. Then old pods make room."""
BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """`old`: the earlier Deployments that may not go yet, with the replicas that each is to have.

    `limit`: what keeps the new revision small, as it stands in the annotation; None: nothing does.
    """

    service: LLMService
    revision: str
    deployments: Sequence[Manifest]
    sizes: Mapping[Pool, int]
    step: Step | None = None
    limit: str | None = None
    old: Mapping[str, int] = field(default_factory=dict)

    @property
    def partial(self) -> Partial:
        return Partial() if self.step is None else Partial(replicas=self.step.new, why=self.limit)

    @property
    def is_pause(self) -> bool:
        return self.step is not None and self.step.is_pause

    def rooms(self) -> list[Room]:
        """Of the present revision, then of the earlier ones: all may have pods that drain."""
        new = self.step.new if self.step else self.sizes
        earlier = [d for d in self.deployments if name_of(d) in self.old]
        revisions = {revision_of(d) for d in earlier}
        rooms = [self._room(pool, self.revision, new[pool], revisions) for pool in self.sizes]
        for d in earlier:
            if (pool := rollout.pool_of(d)) is not None:
                others = revisions | {self.revision}
                rooms.append(self._room(pool, revision_of(d), self.old[name_of(d)], others - {revision_of(d)}))
        return rooms

    def _room(self, pool: Pool, revision: str, size: int, others: Iterable[str]) -> Room:
        return Room(
            service=self.service,
            pool=pool,
            revision=revision,
            size=size,
            written=rollout.written(pool, revision, self.deployments),
            others=frozenset(others),
            successor="" if revision == self.revision else self.revision,
        )


def look(
    service: LLMService,
    revision: str,
    sizes: Mapping[Pool, int],
    deployments: Sequence[Manifest],
    kept: Iterable[str],
    pods: Iterable[Manifest],
    now_s: float,
) -> Replacement:
    """`kept`: names of the earlier Deployments that are not deleted at once."""
    none = Replacement(service=service, revision=revision, deployments=deployments, sizes=sizes)
    engines = [p for p in pods if labels_of(p).get(contract.LABEL_COMPONENT) == contract.COMPONENT_ENGINE]
    engines = [p for p in engines if (p.get("status") or {}).get("phase") not in ("Succeeded", "Failed")]
    names = set(kept)
    old = sorted((d for d in deployments if name_of(d) in names), key=rollout.created)
    if not old and all(revision_of(p) == revision for p in engines):
        return none
    staying = {name_of(d): max(0, rollout.replicas_of(d) - sum(map(_leaves, _pods_of(d, engines)))) for d in old}
    found = _found(service, revision, deployments, engines, now_s)
    step = replacing.step(_scene(none, old, staying, engines, found, now_s))
    is_partial = any(step.new[pool] < size for pool, size in sizes.items())
    limit = (BUDGET if found is None else str(found)) if is_partial else None
    return Replacement(
        service=service,
        revision=revision,
        deployments=deployments,
        sizes=sizes,
        step=step,
        limit=limit,
        old=_lowered(old, staying, step.old),
    )


def _scene(
    of: Replacement,
    old: Sequence[Manifest],
    staying: Mapping[str, int],
    engines: Sequence[Manifest],
    found: int | None,
    now_s: float,
) -> Scene:
    service, revision, resource = of.service, of.revision, of.service.spec.engine.accelerator_resource
    own = [p for p in engines if revision_of(p) == revision]
    homeless = observe_pods.unplaced(own, now_s, UNPLACED_S) if found is not None else []
    budget = service.spec.scaling.gpu_budget
    limits = [limit for limit in (budget, found) if limit is not None]
    return Scene(
        wanted=of.sizes,
        new=Side(
            replicas={p: rollout.written(p, revision, of.deployments) - _count(homeless, p) for p in of.sizes},
            gpus={p: service.pool(p).gpus_per_replica for p in of.sizes},
        ),
        new_ready={p: _count([pod for pod in own if observe_pods.is_ready(pod)], p) for p in of.sizes},
        old=_side(old, staying, resource),
        leaving_gpus=_leaving_gpus(revision, old, staying, engines, resource),
        limit=min(limits, default=None),
        homeless=len(homeless),
    )


def _leaving_gpus(
    revision: str, old: Sequence[Manifest], staying: Mapping[str, int], engines: Sequence[Manifest], resource: str
) -> int:
    """Of all earlier pods but as many as are to stay: one that goes without a mark (its Deployment was made smaller
    before anything else said so) holds its GPUs, too."""
    earlier = [p for p in engines if revision_of(p) != revision]
    kept = {name_of(p) for d in old for p in sorted(_pods_of(d, earlier), key=_leaves)[: staying[name_of(d)]]}
    return sum(rollout.gpus_of(p["spec"], resource) for p in earlier if name_of(p) not in kept)


def _side(old: Sequence[Manifest], staying: Mapping[str, int], resource: str) -> Side:
    replicas: dict[Pool, int] = {}
    gpus: dict[Pool, int] = {}
    for d in old:
        if (pool := rollout.pool_of(d)) is not None:
            replicas[pool] = replicas.get(pool, 0) + staying[name_of(d)]
            gpus[pool] = max(gpus.get(pool, 0), rollout.gpus_of(d["spec"]["template"]["spec"], resource))
    return Side(replicas=replicas, gpus=gpus)


def _lowered(old: Sequence[Manifest], staying: Mapping[str, int], sizes: Mapping[Pool, int]) -> dict[str, int]:
    """What is given up is taken from the oldest first."""
    found = dict(staying)
    for pool, size in sizes.items():
        own = [name_of(d) for d in old if rollout.pool_of(d) is pool]
        too_many = sum(staying[name] for name in own) - size
        for name in own:
            taken = min(found[name], max(0, too_many))
            found[name] -= taken
            too_many -= taken
    return found


def _found(
    service: LLMService, revision: str, deployments: Iterable[Manifest], engines: Sequence[Manifest], now_s: float
) -> int | None:
    """GPUs that the cluster was found to have for all revisions: what stands on the new Deployments, and what pods hold
    while one of the new revision finds no node. None: nobody has hit that limit."""
    notes = [annotations_of(d).get(ANNOTATION_ROLLOUT, "") for d in deployments if rollout.is_current(d, revision)]
    known = [int(note) for note in notes if note.isdigit()]
    if observe_pods.unplaced((p for p in engines if revision_of(p) == revision), now_s, UNPLACED_S):
        resource = service.spec.engine.accelerator_resource
        known.append(sum(rollout.gpus_of(p["spec"], resource) for p in engines if p["spec"].get("nodeName")))
    return min(known, default=None)


def revision_of(item: Manifest) -> str:
    return labels_of(item).get(contract.LABEL_REVISION, "")


def _pods_of(deployment: Manifest, engines: Iterable[Manifest]) -> list[Manifest]:
    key = rollout.pool_of(deployment), revision_of(deployment)
    return [p for p in engines if (rollout.pool_of(p), revision_of(p)) == key]


def _leaves(pod: Manifest) -> bool:
    return not is_alive(pod) or contract.ANNOTATION_DRAIN in annotations_of(pod)


def _count(pods: Iterable[Manifest], pool: Pool) -> int:
    return sum(rollout.pool_of(p) is pool for p in pods)
