"""Generated LLMServices: from the printed schema, and from good ones with parts replaced, dropped or doubled.

The schema knows types and bounds; what its rules in CEL guard (durations, names) is drawn from examples, good and bad.
"""

import copy
from typing import Any

from hypothesis import strategies as st

from llmservice_api.crd import crd
from tests.control.bad_manifests import GOOD

Json = Any
SPEC = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
MIXED = {
    **GOOD["spec"],
    "disaggregation": "Never",
    "pools": {"mixed": {"minReplicas": 1, "maxReplicas": 2}},
}
LEAVES: dict[str, list[Json]] = {
    "target": ["500ms", "1s", "2m", "1h", "1m30s", "0s", "1", "-1s", "99h", "", "s", "1e3s", "\u0661s"],
    "interval": ["5s", "15s", "10m", "1s", "always"],
    "drainDeadline": ["0s", "15m", "24h", "25h", "-5s"],
    "stabilization": ["auto", "0s", "5m", "Auto", ""],
    "percentile": [50, 95, 99.9, 0, 100, -1, 1e300],
    "weight": [1, 10, 0.001, 1_000_000, 0, -3],
    "targetLoad": [0.5, 0.98, 0, 1, 2],
    "disaggregation": ["Always", "Never", "Auto", "always"],
    "tokenBudget": ["auto", 16, 4096, 0, "many", 2**40],
    "minReplicas": [1, 1, 1, 2, 0, -1, 2000],
    "maxReplicas": [1, 2, 8, 1000, 0, 10**12],
    "replicas": [1, 1, 2, 0, -1],
    "gpusPerReplica": [1, 1, 2, 8, 0, 65],
    "gpuBudget": [1, 4, 16, 100_000, 0],
    "maxModelLen": [16, 8192, 1, 10**9],
    "prometheusURL": [
        "http://127.0.0.1:9",
        "https://[::1]:9/x?y",
        "http://",
        "ftp://x",
        "http://a b",
        "http://x:99999",
    ],
    "image": ["engine:1", "r.example.com/a@sha256:" + "a" * 64, "", "not an image!", "UPPER:1", "a" * 600],
    "apiKeysSecret": ["chat-keys", "Chat Keys", "-a", "a..b", ""],
    "acceleratorResource": ["nvidia.com/gpu", "amd.com/gpu", "cpu", "memory", "no such/thing/at all", "GPU", ""],
    "args": [[], ["--enable-prefix-caching"], ["--port=1"], ["--"], ["-x", "\u0000"], ["-tp=2"], ["a"] * 70],
    "persistentVolumeClaim": ["models", "Not A Claim", "a/b"],
    "key": ["token", "a b", "../x"],
}
"""By the name of a field: values of which some are good."""
POD_SPECS: list[Json] = [
    {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    {"containers": [{"name": "engine", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "lots"}}}]},
    {"containers": [{"name": "extra"}]},
    {"containers": [{"name": "No Name", "image": "x"}]},
    {"containers": [{"name": "engine", "volumeMounts": [{"name": "gone", "mountPath": "/x"}]}]},
    {"containers": [{"name": "engine", "env": [{"name": "A=B", "value": "x"}, {"name": "B", "value": 3}]}]},
    {"containers": [{"name": "engine", "args": ["--port=1"], "command": "sh"}]},
    {"containers": [{"name": "engine", "image": 3, "resources": {"limits": {"nvidia.com/gpu": "half"}}}]},
    {"containers": "none"},
    {"volumes": [{"name": "data", "emptyDir": {}}, {"name": "data", "emptyDir": {}}]},
    {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
    {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "huge"}}]},
    {"securityContext": {"runAsUser": "root"}},
    {"hostNetwork": True},
    {"serviceAccountName": "default"},
    {"restartPolicy": "Never"},
    {"activeDeadlineSeconds": 5},
    {"terminationGracePeriodSeconds": -1},
    {"affinity": {"nodeAffinity": []}},
    {"priorityClassName": "no-such-class"},
    {"runtimeClassName": "no-such-runtime"},
    {"schedulerName": "nobody", "hostname": "Not Good"},
    {"topologySpreadConstraints": [{"maxSkew": 0}]},
    {"ephemeralContainers": [{"name": "e", "image": "e"}]},
    {"initContainers": [{"name": "engine", "image": "twice"}]},
    {"sepc": 1},
]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(["a" * 20_000, "\ud800", "\u0000", "${x}", "{{ x }}", "../..", "'\"`\\"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=3),
)


def of_schema(schema: dict[str, Json], name: str = "") -> st.SearchStrategy[Json]:
    """Values that fit the schema, most of them; fields with examples take those."""
    if name in LEAVES:
        return st.sampled_from(LEAVES[name])
    if name == "spec" and "properties" not in schema:
        return st.sampled_from(POD_SPECS)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return st.integers(0, 100) | st.text(max_size=8)
    return _KINDS[schema["type"]](schema)


def _object(schema: dict[str, Json]) -> st.SearchStrategy[Json]:
    if "properties" not in schema:
        texts = st.text("abc/.=-", min_size=1, max_size=8)
        return st.dictionaries(texts, texts | st.none() | st.integers(), max_size=3)
    fields = {name: of_schema(below, name) for name, below in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema.get("required", []) if name in fields}
    return st.fixed_dictionaries(required, optional=fields)


def _array(schema: dict[str, Json]) -> st.SearchStrategy[Json]:
    most = min(schema.get("maxItems", 4), 4)
    return st.lists(of_schema(schema["items"]), min_size=schema.get("minItems", 0), max_size=most)


def _string(schema: dict[str, Json]) -> st.SearchStrategy[Json]:
    least, most = schema.get("minLength", 0), min(schema.get("maxLength", 40), 40)
    return st.sampled_from(["chat", "main", "a-b", "hub-token"]) | st.text(min_size=least, max_size=most)


def _number(schema: dict[str, Json]) -> st.SearchStrategy[Json]:
    return st.floats(0.001, 1000)


def _integer(schema: dict[str, Json]) -> st.SearchStrategy[Json]:
    return st.integers(schema.get("minimum", -10), min(schema.get("maximum", 1000), 10_000))


_KINDS = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _integer,
    "boolean": lambda _: st.booleans(),
}


@st.composite
def mutated(draw: st.DrawFn) -> Json:
    """A good spec with up to five parts that are others."""
    spec = copy.deepcopy(draw(st.sampled_from([GOOD["spec"], MIXED])))
    for _ in range(draw(st.integers(0, 5))):
        _mutate(draw, spec, SPEC)
    return spec


def _mutate(draw: st.DrawFn, node: Json, schema: dict[str, Json], depth: int = 0) -> None:
    """One change somewhere below: at each level it stops here or goes on into a part that is there."""
    if isinstance(node, list) and node:
        inner = draw(st.sampled_from(node))
        if isinstance(inner, dict) and draw(st.integers(0, 3)):
            return _mutate(draw, inner, schema.get("items", {}), depth + 1)
        return node.append(copy.deepcopy(inner))
    if not isinstance(node, dict):
        return None
    known = schema.get("properties", {})
    name = draw(st.sampled_from(sorted({*known, *node}) or ["x"]))
    if isinstance(node.get(name), dict | list) and draw(st.integers(0, 4)):
        return _mutate(draw, node[name], known.get(name, {}), depth + 1)
    how = draw(st.sampled_from(["schema", "schema", "schema", "junk", "drop", "stranger"]))
    if how == "schema" and name in known:
        node[name] = copy.deepcopy(draw(of_schema(known[name], name)))  # examples must stay as they are
    elif how == "drop":
        node.pop(name, None)
    elif how == "stranger":
        node[draw(st.text(max_size=10))] = copy.deepcopy(draw(JUNK))
    else:
        node[name] = copy.deepcopy(draw(JUNK))
    return None


NAMES = st.sampled_from(["chat", "a", "c" * 40, "c" * 41, "Chat", "7b", "a.b", "a-", "", "\u00fc"])


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Json]:
    """Whole LLMServices, as a client sends them."""
    spec = draw(mutated()) if draw(st.integers(0, 3)) else draw(of_schema(SPEC))
    name = "chat" if draw(st.integers(0, 4)) else draw(NAMES)
    body = {"apiVersion": GOOD["apiVersion"], "kind": GOOD["kind"], "metadata": {"name": name}, "spec": spec}
    if draw(st.integers(0, 30)) == 0:
        body[draw(st.sampled_from(["spec", "status", "kind", "apiVersion", "metadata"]))] = draw(JUNK)
    return body
