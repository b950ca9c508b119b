"""The CustomResourceDefinition, printed from the model. `llmservice crd` writes crds/; a test checks for drift."""

from typing import Any

import yaml

from llmservice_api.resource import LLMService
from llmservice_api.schema import Schema, structural
from llmservice_core.contract import GROUP, KIND, PLURAL, VERSION

SHORT_NAME = "llmsvc"
_PLAIN = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object"},
}


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False, about: str = "") -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": 1} if wide else {}) | ({"description": about} if about else {})


COLUMNS = [
    _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
    _column("Prefill", ".status.summary.prefill", about="Ready/wanted engines; of a mixed pool when it says so."),
    _column("Decode", ".status.summary.decode", about="Ready/wanted engines."),
    _column("GPUs", ".status.summary.gpus", about="In use/budget."),
    _column("TTFT", ".status.summary.ttft", about="Attainment of the worst class."),
    _column("TBT", ".status.summary.tbt", about="Attainment of the worst class."),
    _column("Reason", ".status.summary.reason", about="Why the sizes are what they are."),
    _column("Age", ".metadata.creationTimestamp", "date"),
    _column("Load", ".status.summary.load", wide=True, about="Work over capacity of the fullest pool."),
    _column("Rate", ".status.summary.rate", wide=True, about="Requests per second."),
    _column("Endpoint", ".status.endpoint", wide=True),
]


def _schema() -> Schema:
    schema = structural(LLMService)
    schema["properties"] |= _PLAIN
    schema["required"] = ["spec"]
    return schema


def crd() -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


class _Plain(yaml.SafeDumper):
    """No anchors: rules that several fields share are written out at each of them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml() -> str:
    head = "# Printed by `llmservice crd` from llmservice_api; do not edit.\n"
    return head + yaml.dump(crd(), Dumper=_Plain, sort_keys=False, width=110, allow_unicode=True)
