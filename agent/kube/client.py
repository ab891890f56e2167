"""Requests to the API server, their failures told by what to do next.

Three failures have classes of their own, because their callers act on them: an object that is not
there, a conflict, and a resourceVersion that is too old. Everything is bounded by a time-out, a watch by
the time between two lines.
"""

import io
import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.reasons import Reason
from agent.kube.endpoint import Endpoint
from agent.kube.resources import Object, Resource

FIELD_MANAGER = "model-agent-controller"
_REQUEST_SECONDS = 30.0
_PAGE = 500
_LARGEST_LINE = 16 * 1024 * 1024
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class ApiNotFoundError(TerminalError):
    """There is no such object, or no such kind."""


class ApiConflictError(RetryableError):
    """Somebody else wrote meanwhile, or the object is there already: read again, then decide again."""


class ApiExpiredError(RetryableError):
    """The resourceVersion is older than what the server remembers: list again."""


class ApiClient:
    """One API server. `requests` counts what was asked of it, by method; *manager* owns what is written."""

    def __init__(
        self, endpoint: Endpoint, session: aiohttp.ClientSession, *, manager: str = FIELD_MANAGER
    ) -> None:
        self._manager = manager
        self.endpoint = endpoint
        self.requests: dict[str, int] = {}
        self._session = session

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return one object. Raises ApiNotFoundError."""
        return await self._request("GET", resource.path(namespace, name))

    async def list(self, resource: Resource, selector: str | None = None) -> tuple[list[Object], str]:
        """Return all objects of a kind, all pages of them, and the resourceVersion to watch from.

        Raises ApiNotFoundError where there is no such kind, ApiExpiredError where it took too long.
        """
        found: list[Object] = []
        params = {"limit": str(_PAGE)} | ({"labelSelector": selector} if selector else {})
        while True:
            page = await self._request("GET", resource.path(), params=params)
            found += page.get("items") or []
            more = page["metadata"].get("continue")
            if not more:
                return found, str(page["metadata"].get("resourceVersion", ""))
            params["continue"] = more

    async def watch(
        self,
        resource: Resource,
        version: str,
        *,
        selector: str | None = None,
        timeout_seconds: float,
        silence_seconds: float,
    ) -> AsyncIterator[tuple[str, Object]]:
        """Yield (type, object) from *version* on, bookmarks included; ends when the server ends it.

        Raises ApiExpiredError when the version is too old, RetryableError after *silence_seconds*
        without a byte: a connection that is half open looks just like one on which nothing happens.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(int(timeout_seconds)),
        } | ({"labelSelector": selector} if selector else {})
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence_seconds)
        try:
            async with await self._send("GET", resource.path(), params=params, timeout=limits) as answer:
                if answer.status >= 400:
                    raise await self._failure(answer, resource.path())
                async for line in _lines(answer.content):
                    yield _event(line, resource)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(resource.path(), error) from error

    async def create(self, resource: Resource, obj: Object) -> Object:
        """Create an object in its namespace. Raises ApiConflictError where it is there already."""
        namespace = obj["metadata"]["namespace"]
        return await self._request("POST", resource.path(namespace), body=obj)

    async def replace(self, resource: Resource, obj: Object) -> Object:
        """Put an object in place of the version it carries. Raises ApiConflictError where that is gone by."""
        metadata = obj["metadata"]
        return await self._request("PUT", resource.path(metadata["namespace"], metadata["name"]), body=obj)

    async def apply(self, resource: Resource, obj: Object, *, subresource: str | None = None) -> Object:
        """Apply our fields by server-side apply, taking them over from others; creates what is missing.

        With a resourceVersion in *obj*, raises ApiConflictError where the object is no longer that one.
        """
        metadata = obj["metadata"]
        return await self._request(
            "PATCH",
            resource.path(metadata["namespace"], metadata["name"], subresource),
            params={"fieldManager": self._manager, "force": "true"},
            body=obj,
            content_type=_APPLY,
        )

    async def merge(
        self, resource: Resource, namespace: str, name: str, patch: Object, *, subresource: str | None = None
    ) -> Object:
        """Merge *patch* into an object (RFC 7396); a resourceVersion in it guards as in `apply`."""
        return await self._request(
            "PATCH",
            resource.path(namespace, name, subresource),
            params={"fieldManager": self._manager},
            body=patch,
            content_type=_MERGE,
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        # in a BytesIO, for aiohttp warns of large plain bytes
        data = None if body is None else io.BytesIO(json.dumps(body, separators=(",", ":")).encode())
        limits = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
        try:
            async with await self._send(
                method, path, params=params, data=data, content_type=content_type, timeout=limits
            ) as answer:
                if answer.status >= 400:
                    raise await self._failure(answer, path)
                read: dict[str, Any] = json.loads(await answer.read())
                return read
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(path, error) from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own kind, for connect and silence
        params: Mapping[str, str] | None = None,
        data: io.BytesIO | None = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        token = await self.endpoint.token.get()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.requests[method] = self.requests.get(method, 0) + 1
        return await self._session.request(
            method,
            self.endpoint.url + path,
            params=params,
            data=data,
            headers=headers,
            auth=self.endpoint.basic,
            ssl=self.endpoint.ssl_context or True,
            timeout=timeout,
            allow_redirects=False,
        )

    async def _failure(self, answer: aiohttp.ClientResponse, path: str) -> AgentError:
        """Translate an answer that is an error."""
        message = _message(await answer.content.read(64 * 1024))
        told = f"the API server answered {answer.status} for {path}: {message}"
        match answer.status:
            case 404:
                return ApiNotFoundError(Reason.API_NOT_FOUND, told)
            case 409:
                return ApiConflictError(Reason.API_CONFLICT, told)
            case 410:
                return ApiExpiredError(Reason.API_EXPIRED, told)
            case 401:
                self.endpoint.token.forget()
                return RetryableError(Reason.INVALID_CREDENTIALS, told)
            case 429:
                after = answer.headers.get("Retry-After", "")
                seconds = float(after) if after.isascii() and after.isdigit() else None
                return RetryableError(Reason.API_UNAVAILABLE, told, retry_after_seconds=seconds)
            case status if status >= 500:
                return RetryableError(Reason.API_UNAVAILABLE, told)
            case _:
                return TerminalError(Reason.API_REJECTED, told)


def _event(line: bytes, resource: Resource) -> tuple[str, Object]:
    try:
        event = json.loads(line)
        kind, obj = event["type"], event["object"]
    except (ValueError, KeyError, TypeError) as error:
        raise RetryableError(Reason.API_UNAVAILABLE, f"a watch of {resource.path()} sent no event") from error
    if kind == "ERROR":
        message = str(obj.get("message", ""))[:200]
        if obj.get("code") == 410:
            raise ApiExpiredError(Reason.API_EXPIRED, message)
        raise RetryableError(Reason.API_UNAVAILABLE, f"the watch of {resource.path()} failed: {message}")
    return kind, obj


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else [rest + chunk]
        if len(rest) > _LARGEST_LINE:
            raise RetryableError(Reason.API_UNAVAILABLE, "a watch sent an event of more than 16 MiB")
        for line in lines:
            if line.strip():
                yield line


def _message(body: bytes) -> str:
    """Return the words of a Status object, or the beginning of what came instead."""
    try:
        return str(json.loads(body)["message"])[:400]
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _unreachable(path: str, error: Exception) -> RetryableError:
    number = getattr(error, "errno", None)
    if isinstance(error, TimeoutError):
        kind = "timed out"
    else:
        kind = os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__
    return RetryableError(Reason.API_UNAVAILABLE, f"the API server did not answer {path}: {kind}")
