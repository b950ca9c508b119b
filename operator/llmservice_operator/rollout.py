"""Sizes as they were decided, read back from what lives, and which old Deployments may go. Pure.

The size of a pool stands on its Deployment in an annotation beside spec.replicas, written in one request: so a restart
of the operator forgets nothing and somebody else's `kubectl scale` is seen as such.
"""

from collections.abc import Iterable, Mapping, Sequence

from llmservice_api.resource import LLMService
from llmservice_core.contract import COMPONENT_ENGINE, COMPONENT_ROUTER, LABEL_COMPONENT, LABEL_POOL, LABEL_REVISION
from llmservice_core.model import Mode, Pool
from llmservice_operator.child_parts import ANNOTATION_HELD, ANNOTATION_REPLICAS, ANNOTATION_ROLLOUT
from llmservice_operator.kinds import Manifest, annotations_of, labels_of, name_of

Sizes = Mapping[Pool, int]


def engines(deployments: Iterable[Manifest]) -> list[Manifest]:
    return [d for d in deployments if labels_of(d).get(LABEL_COMPONENT) == COMPONENT_ENGINE]


def router(deployments: Iterable[Manifest]) -> Manifest | None:
    return next((d for d in deployments if labels_of(d).get(LABEL_COMPONENT) == COMPONENT_ROUTER), None)


def is_current(deployment: Manifest, revision: str) -> bool:
    return labels_of(deployment).get(LABEL_REVISION) == revision


def decided(service: LLMService, revision: str, deployments: Sequence[Manifest], remembered: Sizes) -> dict[Pool, int]:
    """The sizes before this decision. `remembered`: for a Deployment that was deleted; 0 is no size to come back to."""
    mode = service.spec.scaling.mode
    return {
        pool: _first(_decided(pool, revision, deployments, mode), remembered.get(pool) or None, spec.min_replicas)
        for pool, spec in service.spec.pools.used().items()
    }


def written(pool: Pool, revision: str, deployments: Iterable[Manifest]) -> int:
    """The replicas of this revision that are ours, those included that are only held until they have drained.

    What a stranger scaled up beyond them is put back at once, not drained.
    """
    found = [d for d in deployments if pool_of(d) is pool and is_current(d, revision)]
    if not found:
        return 0
    replicas, notes = int(found[0]["spec"].get("replicas", 1)), annotations_of(found[0])
    decided, held = notes.get(ANNOTATION_REPLICAS, ""), notes.get(ANNOTATION_HELD, "0")
    return min(replicas, int(decided) + int(held)) if decided.isdigit() and held.isdigit() else replicas


def bounded(service: LLMService, pool: Pool, size: int) -> int:
    """Within the pool's limits, unless a person sets the sizes."""
    if service.spec.scaling.mode is not Mode.AUTO:
        return size
    spec = service.pool(pool)
    return min(max(size, spec.min_replicas), spec.max_replicas)


def removable(revision: str, pools: Iterable[Pool], deployments: Sequence[Manifest]) -> list[Manifest]:
    """Engine Deployments of earlier revisions or pools that may go now.

    All, once every wanted one is Ready in full. Until then the newest that was complete stays. One that never was goes
    at once: it would hold its GPUs for ever, and its successor could not start. Only while none that was complete
    serves, whatever has Ready pods stays, too.
    """
    wanted, old = set(pools), outdated(revision, pools, deployments)
    current = {pool_of(d): d for d in deployments if is_current(d, revision)}
    if all(pool in current and _is_complete(current[pool]) for pool in wanted):
        return old
    proven = [group for group in _by_age(deployments) if _was_complete(group)]
    kept = next((group for group in proven if group[0] in old), [])
    if not any(serves(group) for group in proven):
        kept = kept + [d for d in old if _ready(d)]
    return [d for d in old if d not in kept]


def outdated(revision: str, pools: Iterable[Pool], deployments: Sequence[Manifest]) -> list[Manifest]:
    wanted = set(pools)
    return [d for d in deployments if not is_current(d, revision) or pool_of(d) not in wanted]


def serves(group: Iterable[Manifest]) -> bool:
    return _covers([d for d in group if _ready(d)])


def pool_of(item: Manifest) -> Pool | None:
    value = labels_of(item).get(LABEL_POOL)
    return Pool(value) if value in {pool.value for pool in Pool} else None


def gpus_of(pod: Manifest, resource: str) -> int:
    """By the spec of a pod or of a template: another revision may have had other engines."""
    return int(((pod["containers"][0].get("resources") or {}).get("limits") or {}).get(resource, 0))


def of_room(deployments: Iterable[Manifest], pool: Pool, revision: str) -> Manifest:
    return next(d for d in deployments if pool_of(d) is pool and is_current(d, revision))


def replicas_of(deployment: Manifest) -> int:
    return int(deployment["spec"].get("replicas", 1))


def created(deployment: Manifest) -> str:
    return str(deployment["metadata"].get("creationTimestamp", ""))


def names(deployments: Iterable[Manifest]) -> set[str]:
    return {name_of(d) for d in deployments}


def _decided(pool: Pool, revision: str, deployments: Sequence[Manifest], mode: Mode) -> int | None:
    """From the current Deployment, else from the newest earlier one."""
    of_pool = sorted(
        (d for d in deployments if pool_of(d) is pool),
        key=lambda d: (is_current(d, revision), created(d)),
    )
    if not of_pool:
        return None
    written, notes = replicas_of(of_pool[-1]), annotations_of(of_pool[-1])
    if mode is not Mode.AUTO and ANNOTATION_ROLLOUT not in notes:
        return written
    noted = notes.get(ANNOTATION_REPLICAS, "")
    return int(noted) if noted.isdigit() else written


def _first(*sizes: int | None) -> int:
    return next(size for size in sizes if size is not None)


def _by_age(deployments: Iterable[Manifest]) -> list[list[Manifest]]:
    """By revision, the newest first."""
    groups: dict[str, list[Manifest]] = {}
    for deployment in deployments:
        groups.setdefault(labels_of(deployment).get(LABEL_REVISION, ""), []).append(deployment)
    return sorted(groups.values(), key=lambda group: max(map(created, group)), reverse=True)


def _was_complete(group: Sequence[Manifest]) -> bool:
    """At some time all its pods were available; the Deployment controller notes that once and for all."""
    return _covers(group) and all(_progress(d) == "NewReplicaSetAvailable" for d in group)


def _covers(group: Iterable[Manifest]) -> bool:
    """Enough pools for a request: routers never pair pods of two revisions."""
    found = {pool_of(d) for d in group}
    return Pool.MIXED in found or {Pool.PREFILL, Pool.DECODE} <= found


def _progress(deployment: Manifest) -> str:
    conditions = (deployment.get("status") or {}).get("conditions") or []
    return next((str(c.get("reason")) for c in conditions if c.get("type") == "Progressing"), "")


def _ready(deployment: Manifest) -> int:
    return int((deployment.get("status") or {}).get("readyReplicas", 0))


def _is_complete(deployment: Manifest) -> bool:
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    return bool(seen and _ready(deployment) >= _wanted(deployment))


def _wanted(deployment: Manifest) -> int:
    """As decided: fewer may be asked for while an earlier revision holds GPUs, and none of a service that sleeps."""
    noted = annotations_of(deployment).get(ANNOTATION_REPLICAS, "")
    return int(noted) if noted.isdigit() else max(1, replicas_of(deployment))
