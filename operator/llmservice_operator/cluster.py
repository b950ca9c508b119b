"""The only door to the Kubernetes API (kopf keeps its own for the resource): plain dicts in and out.

It decides nothing and never retries; failures leave as one of our errors, whose text a person can read.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from llmservice_core.contract import FIELD_MANAGER
from llmservice_operator import metrics
from llmservice_operator.errors import Exists, Expired, Gone, Misconfigured, NotReady, OperatorError, Unreachable
from llmservice_operator.kinds import POD, Kind, Manifest, kind_of, name_of, namespace_of

TIMEOUT_S = 15.0
WATCH_S = 300
"""The API server ends a watch after this long; a silent connection is noticed `TIMEOUT_S` later."""
_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_MERGE = {"Content-Type": "application/merge-patch+json"}


class Cluster:
    """One API server. `connect()` before, `close()` after."""

    def __init__(self) -> None:
        self._api: Any = None

    async def connect(self) -> None:
        """As a pod's ServiceAccount, else by KUBECONFIG."""
        configuration = client.Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            file = os.environ.get("KUBECONFIG")
            await config.load_kube_config(file, client_configuration=configuration)  # type: ignore[no-untyped-call]
        self._api = client.ApiClient(configuration)
        self._api.user_agent = FIELD_MANAGER

    async def close(self) -> None:
        if self._api is not None:
            await self._api.close()

    async def list(self, kind: Kind, namespace: str | None, **query: str) -> tuple[list[Manifest], str]:
        """Objects and the version from which to watch."""
        answer = await self._call("GET", kind.path(namespace), query=query)
        # Items of a list come without apiVersion and kind.
        named = {"apiVersion": kind.api_version, "kind": kind.kind}
        return [{**named, **item} for item in answer.get("items") or []], answer["metadata"]["resourceVersion"]

    async def serves(self, kind: Kind) -> bool:
        """Whether discovery names the kind; later than its definition exists, and what kopf goes by."""
        try:
            answer = await self._call("GET", f"/apis/{kind.api_version}")
        except Gone:
            return False
        return any(resource["name"] == kind.plural for resource in answer.get("resources") or [])

    async def find(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """By a list of one name, so that no right beyond `list` is needed."""
        found, _ = await self.list(kind, namespace, fieldSelector=f"metadata.name={name}")
        return found[0] if found else None

    async def watch(self, kind: Kind, namespace: str | None, version: str, **query: str) -> AsyncIterator[Manifest]:
        """Events after `version` until the server ends the stream; Expired when the version is too old."""
        asked = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
        path = kind.path(namespace)
        response = await self._request("GET", path, {**asked, "resourceVersion": version, **query}, WATCH_S + TIMEOUT_S)
        try:
            await _check(response)
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error(event["object"].get("code", 500), event["object"].get("message", ""))
                yield event
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # the last: it ended within an event
            raise NotReady(f"the watch of {kind.plural} broke: {error}") from error
        finally:
            response.close()

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply; `force`, for the fields in it are ours whoever wrote them last."""
        path = kind_of(manifest).path(namespace_of(manifest), name_of(manifest))
        return await self._call("PATCH", path, query=_MANAGER, body=manifest, headers=_APPLY)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        path = kind_of(manifest).path(namespace_of(manifest), name_of(manifest)) + "/status"
        return await self._call("PATCH", path, query=_MANAGER, body=manifest, headers=_APPLY)

    async def create(self, manifest: Manifest) -> Manifest:
        return await self._call("POST", kind_of(manifest).path(namespace_of(manifest)), body=manifest)

    async def annotate(self, item: Manifest, annotations: Mapping[str, str | None]) -> Manifest:
        """Only this very object, not a namesake that came after it; None takes an annotation away.

        No server-side apply: that would make the object anew if it is gone.
        """
        return await self._merge(item, {"metadata": {"annotations": dict(annotations)}})

    async def scale(self, deployment: Manifest, replicas: int) -> Manifest:
        """Only its size: of an earlier revision, whose other fields are nobody's wish any more."""
        return await self._merge(deployment, {"spec": {"replicas": replicas}})

    async def _merge(self, item: Manifest, change: Manifest) -> Manifest:
        body = {**change, "metadata": {**change.get("metadata", {}), "uid": item["metadata"]["uid"]}}
        path = kind_of(item).path(namespace_of(item), name_of(item))
        answer = await self._call("PATCH", path, query={"fieldManager": FIELD_MANAGER}, body=body, headers=_MERGE)
        return {"apiVersion": item["apiVersion"], "kind": item["kind"], **answer}

    async def log(self, namespace: str, pod: str, options: Mapping[str, str]) -> str:
        """What a container wrote. Not a copy of it: the caller bounds the answer by `options` of the API."""
        path = f"{POD.path(namespace, pod)}/log"
        response = await self._request("GET", path, options, TIMEOUT_S)
        try:
            await _check(response)
            return (await response.read()).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotReady(f"the API server broke off a log: {error}") from error
        finally:
            response.release()

    async def delete(self, manifest: Manifest) -> None:
        """Only this very object, not a namesake that came after it."""
        body = {"preconditions": {"uid": manifest["metadata"]["uid"]}, "propagationPolicy": "Background"}
        path = kind_of(manifest).path(namespace_of(manifest), name_of(manifest))
        await self._call("DELETE", path, body=body)

    async def _call(
        self,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Manifest:
        response = await self._request(verb, path, query or {}, TIMEOUT_S, body, headers)
        try:
            await _check(response)
            answer: Manifest = await response.json()
            return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotReady(f"the API server broke off an answer: {error}") from error
        finally:
            response.release()

    async def _request(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str],
        timeout_s: float,
        body: Manifest | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        metrics.API_REQUESTS.labels(verb).inc()
        try:
            sent = await self._api.param_serialize(
                verb, path, header_params=dict(headers or {}), auth_settings=["BearerToken"]
            )
            url = f"{sent[1]}?{urlencode(query)}" if query else sent[1]
            answer = await self._api.call_api(verb, url, sent[2], body, _request_timeout=timeout_s)
        except TimeoutError as error:
            # It may be one slow webhook of one kind: others may well be answered.
            raise NotReady(f"the API server does not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the API server does not answer: {error or type(error).__name__}") from error
        response: aiohttp.ClientResponse = answer.response
        return response


_BAD_MANIFEST = ("failed to create typed patch object", "failed to convert new object")
_MANAGER = {"fieldManager": FIELD_MANAGER, "force": "true"}


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    text = await response.text()
    try:
        text = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        text = text[:300]
    raise _error(response.status, text)


def _error(code: int, message: str) -> OperatorError:
    if code == 404:
        return Gone(message)
    if code == 410:
        return Expired(message)
    if code == 409 and "already exists" in message:
        return Exists(message)
    # Server-side apply answers 500 to unknown fields and values of a wrong type: that is the manifest's fault.
    if any(words in message for words in _BAD_MANIFEST):
        return Misconfigured(message)
    # 401: the token was renewed; 409: somebody wrote at the same time; 403 for a namespace that is being deleted.
    if code in (401, 408, 409, 429) or code >= 500 or "being terminated" in message:
        return NotReady(message)
    return Misconfigured(message)
