"""Software bills of materials (CycloneDX 1.6, JSON) of what a lock holds: `make sbom`, or
`python -m e2e.images.sbom --out FOLDER`.

From the hashed locks alone, so nothing is downloaded and the same locks give the same bytes. They name Python packages
only: what lies beneath (Debian, Python, vLLM's own image with CUDA) is the base image's to tell.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from e2e.cluster.paths import REPOSITORY

LOCKS = {
    "operator-image": "operator/requirements.txt",
    "engine-cpu": "serving/requirements-cpu.txt",
    "development": "tests/requirements-dev.txt",
}
"""Bill -> its lock. engine-cpu is the environment of tests and demo; on a GPU vLLM's image brings its own."""
OURS = "llmservice-operator"
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One package of a lock: each hash is of a file that may be installed, one for each platform."""

    name: str
    version: str
    hashes: tuple[str, ...]
    via: tuple[str, ...]
    """Packages of the lock that need it."""


def pins(lock: str) -> list[Pin]:
    """ValueError for a pin without a hash: such a lock proves nothing."""
    return [_pin(block) for block in _blocks(lock)]


def _blocks(lock: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in lock.splitlines():
        if _PIN.match(line):
            if block:
                yield block
            block = [line]
        elif block:
            block.append(line)
    if block:
        yield block


def _pin(block: list[str]) -> Pin:
    found = _PIN.match(block[0])
    hashes = tuple(_HASH.findall("\n".join(block)))
    if found is None or not hashes:
        raise ValueError(f"no hash for {block[0]!r}: run `make lock`")
    comments = [line.strip().lstrip("#").strip() for line in block if line.lstrip().startswith("#")]
    via = tuple(word for line in comments for word in line.removeprefix("via").split()[:1])
    return Pin(name=found["name"], version=found["version"], hashes=hashes, via=via)


def bill(name: str, lock: str, version: str) -> str:
    """The bill as JSON text. Its serial number is made of the lock, and it carries no time."""
    found = pins(lock)
    whole = Component(name=f"{OURS}-{name}", version=version, type=ComponentType.APPLICATION, bom_ref=name)
    components = {pin.name: _component(pin) for pin in found}
    bom = Bom(components=components.values(), serial_number=UUID(sha256(lock.encode()).hexdigest()[:32], version=5))
    bom.metadata.component = whole
    for pin in found:
        parents = [components[parent] for parent in pin.via if parent in components]
        for parent in parents or [whole]:
            bom.register_dependency(parent, [components[pin.name]])
    made = json.loads(JsonV1Dot6(bom).output_as_string())
    del made["metadata"]["timestamp"]
    return json.dumps(made, indent=2) + "\n"


def _component(pin: Pin) -> Component:
    purl = PackageURL(type="pypi", name=pin.name, version=pin.version)
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=content) for content in pin.hashes]
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        hashes=hashes,
    )


def _version() -> str:
    found = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m e2e.images.sbom", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist" / "sbom", help="folder; default dist/sbom")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, lock in LOCKS.items():
        path = out / f"{name}.cdx.json"
        path.write_text(bill(name, (REPOSITORY / lock).read_text(), _version()))
        print(f"{path}: {len(pins((REPOSITORY / lock).read_text()))} packages")


if __name__ == "__main__":
    main()
