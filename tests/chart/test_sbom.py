"""The bills of materials: every package of its lock with every hash, valid by CycloneDX' schema, always the same."""

import json
import re

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from e2e.images import sbom
from tests.chart.conftest import ROOT


@pytest.mark.parametrize("name", sbom.LOCKS)
def test_a_bill_holds_what_its_lock_holds(name: str) -> None:
    lock = (ROOT / sbom.LOCKS[name]).read_text()
    text = sbom.bill(name, lock, "0.1.0")
    made = json.loads(text)
    pinned = set(re.findall(r"^([a-zA-Z0-9._-]+)(?:\[.*\])?==([^ ;\\]+)", lock, re.MULTILINE))
    assert {(c["name"], c["version"]) for c in made["components"]} == pinned
    assert sum(len(c["hashes"]) for c in made["components"]) == len(re.findall("--hash=sha256:", lock))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert sbom.bill(name, lock, "0.1.0") == text


def test_it_says_who_needs_whom() -> None:
    made = json.loads(sbom.bill("x", (ROOT / sbom.LOCKS["operator-image"]).read_text(), "0.1.0"))
    needs = {d["ref"].split("@")[0]: [n.split("@")[0] for n in d.get("dependsOn", [])] for d in made["dependencies"]}
    assert "pkg:pypi/yarl" in needs["pkg:pypi/aiohttp"]
    assert "pkg:pypi/kopf" in needs["x"]


def test_a_pin_without_a_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="no hash for 'kopf==1'"):
        sbom.pins("aiohttp==3 \\\n    --hash=sha256:" + "a" * 64 + "\nkopf==1\n    # via x\n")
