"""pydantic's JSON schema -> a structural schema as the API server wants it. Pure, knows nothing of LLMServices.

References are written out, titles and null alternatives dropped. Scalar defaults stay (rules read them); defaults of
objects and lists go, so that an object stays as small as its author wrote it.
"""

from typing import Any

from pydantic import BaseModel

from llmservice_api.rules import VALIDATIONS

Schema = dict[str, Any]
_DROPPED = {"title", "$defs", "const"}


def structural(model: type[BaseModel]) -> Schema:
    raw = model.model_json_schema(by_alias=True)
    return _clean(raw, raw.get("$defs", {}))


def _clean(node: Schema, definitions: Schema) -> Schema:
    node = _without_null(_resolved(node, definitions), definitions)
    kept = {key: value for key, value in node.items() if key not in _DROPPED}
    if not isinstance(kept.get("default", {}), (str, int, float, bool)):
        kept.pop("default", None)
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = _clean(kept[key], definitions)
    if "properties" in kept:
        kept["properties"] = {k: _clean(v, definitions) for k, v in kept["properties"].items()}
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    return kept


def _resolved(node: Schema, definitions: Schema) -> Schema:
    """Put the referenced object in place; what stands beside the reference is added to it."""
    if "$ref" not in node:
        return node
    target = _resolved(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    beside = {key: value for key, value in node.items() if key != "$ref"}
    rules = [*target.get(VALIDATIONS, []), *beside.get(VALIDATIONS, [])]
    return target | beside | ({VALIDATIONS: rules} if rules else {})


def _without_null(node: Schema, definitions: Schema) -> Schema:
    """`X | None` is an optional X: the API server knows absent, not null."""
    if "anyOf" not in node:
        return node
    others = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(others) != 1:
        raise ValueError(f"no structural schema for {node['anyOf']}")
    beside = {key: value for key, value in node.items() if key != "anyOf"}
    return _without_null(_resolved(others[0], definitions), definitions) | beside
