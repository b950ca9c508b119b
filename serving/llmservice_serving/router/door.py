"""Who may come in, as which class, and how many tokens a tenant may still use. No I/O; keys come from `keys_dir`.

Fails closed: a service that asks for keys and has none that can be read refuses everybody. One event loop, no locks.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmservice_core.model import ServiceClass
from llmservice_core.rate import Bucket, full
from llmservice_serving.router.errors import Denied, Refusal
from llmservice_serving.router.keys import Keyring, Tenant
from llmservice_serving.router.service_config import ServiceConfig

SCHEME = "bearer"
HOW = "Send the header Authorization: Bearer <key>."
NEVER = {"x-should-retry": "false"}
"""OpenAI's clients try a 429 again by themselves unless they are told that it is no use."""


@dataclass(slots=True, kw_only=True)
class Door:
    """`has_keys`: this router was given a folder of keys, whatever stands in it."""

    has_keys: bool
    keyring: Keyring | None = None
    """The last that was good."""
    problem: str | None = "the API keys have not been read yet"
    """Why the present keys cannot be used; None when they can."""
    routers: int | None = None
    """Ready routers of the service; None: unknown, then this one alone counts."""
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    def use(self, keyring: Keyring) -> None:
        """What a tenant has used stays with its name, whatever becomes of its keys."""
        self.keyring, self.problem = keyring, None
        known = keyring.tenants
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in known}

    def refuse(self, why: str) -> None:
        self.problem = why

    def state(self, config: ServiceConfig | None) -> str:
        """One of metric_names.ACCESS_STATES."""
        if not self.has_keys:
            return "closed" if config and config.needs_keys else "open"
        if self.keyring is None:
            return "closed"
        return "stale" if self.problem else "keys"

    def who(self, authorization: Sequence[str], config: ServiceConfig) -> Tenant | None:
        """The tenant of a key; None where no keys are asked for. Denied for everybody else."""
        state = self.state(config)
        if state == "open":
            return None
        if state == "closed" or self.keyring is None:
            raise _closed()
        tenant = self.keyring.find(_bearer(authorization))
        if tenant is None:
            raise _unauthorized("unknown_key", f"This API key is not known. {HOW}")
        return tenant

    def charge(self, tenant: Tenant | None, tokens: float) -> "Charge":
        """Tokens that a request will use, as predicted; Denied while the tenant has not that many left."""
        if tenant is None or tenant.tokens_per_minute is None:
            return Charge(self, None, tokens)
        now_s = self.clock()
        bucket = self._bucket(tenant, tenant.tokens_per_minute, now_s)
        wait_s = bucket.wait_s(tokens, now_s)
        if wait_s is None:
            raise _never(tenant, tokens, bucket.burst_tokens)
        if wait_s > 0:
            raise _later(tenant, wait_s)
        self._buckets[tenant.name] = bucket.take(tokens, now_s)
        return Charge(self, tenant, tokens)

    def settle(self, tenant: Tenant, predicted: float, used: float) -> None:
        bucket = self._buckets.get(tenant.name)
        if bucket is not None:
            self._buckets[tenant.name] = bucket.settle(predicted, used, self.clock())

    def _bucket(self, tenant: Tenant, tokens_per_minute: int, now_s: float) -> Bucket:
        """This router's share of the limit, kept over changes of the limit and of the number of routers."""
        share = tokens_per_minute / max(1, self.routers or 1)
        bucket = self._buckets.get(tenant.name)
        if bucket is None:
            return full(share, now_s)
        return bucket if bucket.burst_tokens == share else bucket.limited_to(share, now_s)


class Charge:
    """What one request was charged. Corrected once; what comes later says nothing."""

    def __init__(self, door: Door, tenant: Tenant | None, tokens: float):
        self._door, self._tenant, self.tokens = door, tenant, tokens

    def settle(self, used: float | None) -> None:
        """The real use; None: unknown, then the prediction stands."""
        if self._tenant is not None and used is not None:
            self._door.settle(self._tenant, self.tokens, used)
        self._tenant = None

    def refund(self) -> None:
        """Nothing came of it."""
        self.settle(0.0)


def class_of(tenant: Tenant | None, asked: str | None, config: ServiceConfig) -> ServiceClass:
    """The class that a request asks for, if its key may; else the key's own or the service's default."""
    if tenant is None:
        return config.class_for(asked)
    if asked is None:
        return _default_class(tenant, config)
    if tenant.classes is not None and asked not in tenant.classes:
        raise _forbidden(tenant, f"This key may not use class {asked!r}; it may use: {', '.join(tenant.classes)}.")
    return config.class_for(asked)


def _default_class(tenant: Tenant, config: ServiceConfig) -> ServiceClass:
    """The key's default, else the service's if the key may use it, else the first that it may use."""
    allowed = (config.default.name,) if tenant.classes is None else tenant.classes
    name = tenant.default_class or (config.default.name if config.default.name in allowed else allowed[0])
    try:
        return config.class_for(name)
    except Refusal as error:
        raise _forbidden(tenant, f"The class of this key, {name!r}, is no class of this service.") from error


def _bearer(authorization: Sequence[str]) -> str:
    """The key out of the one header `Authorization`."""
    if not authorization:
        raise _unauthorized("no_key", f"This service asks for an API key. {HOW}")
    scheme, _, key = authorization[0].strip().partition(" ")
    if len(authorization) > 1 or scheme.lower() != SCHEME or not key.strip():
        raise _unauthorized("no_key", f"The header Authorization holds no API key. {HOW}")
    return key.strip()


def _unauthorized(reason: str, message: str) -> Denied:
    return Denied(401, message, reason=reason, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _closed() -> Denied:
    message = "This service asks for API keys, and its router has none that it can read. Its owner must mend that."
    return Denied(503, message, reason="keys_unreadable", code="keys_unreadable", kind="service_unavailable")


def _forbidden(tenant: Tenant, message: str) -> Denied:
    return Denied(403, message, reason="class", code="class_not_allowed", kind="permission_error", tenant=tenant.name)


def _later(tenant: Tenant, wait_s: float) -> Denied:
    seconds = math.ceil(wait_s)
    message = f"This key has used its {tenant.tokens_per_minute} tokens per minute; try again in {seconds} s."
    return _limited(tenant, message, "rate", {"Retry-After": str(seconds)})


def _never(tenant: Tenant, tokens: float, most: float) -> Denied:
    message = (
        f"This request would use about {tokens:.0f} tokens; this key may use {most:.0f} at once. Make it shorter, or"
        " ask for a higher limit."
    )
    return _limited(tenant, message, "too_large_for_rate", NEVER)


def _limited(tenant: Tenant, message: str, reason: str, headers: dict[str, str]) -> Denied:
    code = "rate_limit_exceeded"
    return Denied(429, message, reason=reason, code=code, kind="tokens", tenant=tenant.name, headers=headers)
