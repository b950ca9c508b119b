"""API keys as the Secret holds them -> tenants found by a key's digest. Pure: texts in, records out.

One entry per tenant: its name, and a YAML or JSON object `{keys, classes, defaultClass, tokensPerMinute}`. A key is
random, so one SHA-256 of it is enough: slow hashes protect what can be guessed, and 128 random bits cannot. Messages
of this module go into logs: they never carry anything out of an entry, nor a name that might be a misplaced key.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

TENANT = re.compile(r"[a-z0-9]([-a-z0-9]{0,29}[a-z0-9])?")
"""At most 31 characters, fewer than any key has: a key written where a name belongs is never repeated in a message."""
LEAST_KEY_CHARS = 32
MOST_KEY_CHARS = 512
MOST_KEYS, MOST_TENANTS = 32, 500
"""Of one tenant; and of a Secret, since tenants are values of a metric label."""
MOST_TOKENS_PER_MINUTE = 10**12
HASHED = re.compile(r"sha256:[0-9a-f]{64}")
PLAIN = re.compile(rf"[!-~]{{{LEAST_KEY_CHARS},{MOST_KEY_CHARS}}}")
FIELDS = ("keys", "classes", "defaultClass", "tokensPerMinute")
PREFIX_BYTES = 8


class BadKeys(ValueError):
    """The Secret cannot be used; the message names the entry and what to write there, and quotes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who pays. `classes` None: all of the service."""

    name: str
    classes: tuple[str, ...] | None = None
    default_class: str | None = None
    tokens_per_minute: int | None = None
    """Prompt and output tokens; None: no limit."""
    salt_key: bytes = field(repr=False)
    """Digest of its first key: what its cache salt is made of."""

    def cache_salt(self, service: str) -> str:
        """Stable over routers and restarts, different per tenant and service, and not to be had without the key.

        vLLM takes at most 128 characters.
        """
        return hmac.new(self.salt_key, f"cache-salt/{service}/{self.name}".encode(), hashlib.sha256).hexdigest()


NOBODY: Sequence[tuple[bytes, Tenant | None]] = ((bytes(32), None),)
"""What an unknown key is compared with, so that both ways do the same work."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """All tenants of a Secret and the digests of their keys. No key is kept."""

    by_prefix: Mapping[bytes, Sequence[tuple[bytes, Tenant]]] = field(repr=False)

    def find(self, key: str) -> Tenant | None:
        """Looked up by a part of the digest, which nobody can steer; whole digests are compared in constant time."""
        digest = digest_of(key)
        found: Tenant | None = None
        for known, tenant in self.by_prefix.get(digest[:PREFIX_BYTES], NOBODY):
            if hmac.compare_digest(known, digest):
                found = tenant
        return found

    @property
    def tenants(self) -> dict[str, Tenant]:
        return {tenant.name: tenant for same in self.by_prefix.values() for _, tenant in same}

    @property
    def key_count(self) -> int:
        return sum(map(len, self.by_prefix.values()))


def keyring(by_digest: Mapping[bytes, Tenant]) -> Keyring:
    by_prefix: dict[bytes, list[tuple[bytes, Tenant]]] = {}
    for digest, tenant in by_digest.items():
        by_prefix.setdefault(digest[:PREFIX_BYTES], []).append((digest, tenant))
    return Keyring(by_prefix)


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def parse(entries: Mapping[str, bytes]) -> Keyring:
    """All or nothing: half a Secret would lock out whoever stands in the other half."""
    if len(entries) > MOST_TENANTS:
        raise BadKeys(f"there are {len(entries)} entries: at most {MOST_TENANTS} tenants are served")
    found: dict[bytes, Tenant] = {}
    for name, text in sorted(entries.items()):
        if not TENANT.fullmatch(name):
            raise BadKeys("an entry's name is no tenant: use at most 31 small letters, digits and dashes")
        for digest, tenant in _entry(name, text).items():
            if digest in found:
                raise BadKeys(f"tenants {found[digest].name} and {name} have a key in common")
            found[digest] = tenant
    return keyring(found)


def _entry(name: str, text: bytes) -> dict[bytes, Tenant]:
    said = _object(name, text)
    digests = [_digest(name, key) for key in _list(name, said, "keys", MOST_KEYS)]
    if not digests:
        raise BadKeys(f"tenant {name} has no keys: write a list of at least one")
    tenant = Tenant(
        name=name,
        classes=_classes(name, said),
        default_class=_default(name, said),
        tokens_per_minute=_limit(name, said),
        salt_key=digests[0],
    )
    return dict.fromkeys(digests, tenant)


def _object(name: str, text: bytes) -> dict[str, Any]:
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        said = None  # its message quotes the text
    if not isinstance(said, dict):
        raise BadKeys(f"tenant {name} is no YAML object: write keys: [...] and the other fields")
    if not set(said) <= set(FIELDS):
        raise BadKeys(f"tenant {name} has a field that is none of {', '.join(FIELDS)}")
    return said


def _list(name: str, said: dict[str, Any], what: str, most: int) -> list[Any]:
    value = said.get(what)
    if not isinstance(value, list) or len(value) > most:
        raise BadKeys(f"tenant {name}: {what} must be a list of at most {most}")
    return value


def _digest(name: str, key: object) -> bytes:
    if isinstance(key, str) and HASHED.fullmatch(key):
        return bytes.fromhex(key.removeprefix("sha256:"))
    if isinstance(key, str) and not key.startswith("sha256:") and PLAIN.fullmatch(key):
        return digest_of(key)
    raise BadKeys(
        f"tenant {name}: a key is {LEAST_KEY_CHARS} to {MOST_KEY_CHARS} printable characters without spaces (in quotes"
        " if digits only), or sha256: and the 64 hex digits of its hash"
    )


def _classes(name: str, said: dict[str, Any]) -> tuple[str, ...] | None:
    if said.get("classes") is None:
        return None
    classes = _list(name, said, "classes", 16)
    if not classes or not all(isinstance(c, str) for c in classes):
        raise BadKeys(f"tenant {name}: classes must be a list of names; leave it out to allow all")
    return tuple(classes)


def _default(name: str, said: dict[str, Any]) -> str | None:
    chosen, allowed = said.get("defaultClass"), said.get("classes")
    if chosen is not None and (not isinstance(chosen, str) or (allowed is not None and chosen not in allowed)):
        raise BadKeys(f"tenant {name}: defaultClass must be the name of one of its classes")
    return chosen


def _limit(name: str, said: dict[str, Any]) -> int | None:
    limit = said.get("tokensPerMinute")
    is_number = isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit <= MOST_TOKENS_PER_MINUTE
    if limit is not None and not is_number:
        raise BadKeys(f"tenant {name}: tokensPerMinute must be a whole number above 0")
    return limit if is_number else None
