"""A small Kubernetes API server: list, watch, bookmarks, 410, 409, server-side apply, status, finalizers.

Real HTTP on 127.0.0.1. What a test wants to go wrong it scripts with `fail`, `compact`, `stall`, `drop`.
Ownership in server-side apply is kept by leaf paths and manager; lists are atomic, but for conditions
(by type) and ownerReferences (by uid).
"""

import asyncio
import copy
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from agent.kube.endpoint import Endpoint, TokenSource
from tests.fakes.fields import leaves, merge, overlay, own, remove

KINDS = {
    ("serving.kserve.io/v1alpha1", "trainedmodels"): "TrainedModel",
    ("serving.kserve.io/v1beta1", "inferenceservices"): "InferenceService",
    ("v1", "configmaps"): "ConfigMap",
    ("apps/v1", "deployments"): "Deployment",
    ("v1", "services"): "Service",
    ("v1", "pods"): "Pod",
    ("v1", "events"): "Event",
    ("coordination.k8s.io/v1", "leases"): "Lease",
}
MAX_DATA = 2**20
PLURALS = {(version, kind): plural for (version, plural), kind in KINDS.items()}


@dataclass
class Fault:
    """What to do instead of answering: `after` means that the request is carried out first."""

    matches: Callable[[str, str], bool]
    status: int | None
    times: int
    after: bool = False
    headers: dict = field(default_factory=dict)


@dataclass
class Collection:
    objects: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    oldest: int = 0


class ApiServer:
    """Use as an async context manager; `url` is where it listens."""

    def __init__(self, *absent, bookmark_seconds=0.2, prune=None):
        self.collections = {key: Collection() for key, kind in KINDS.items() if kind not in absent}
        self.calls = []
        self.clients = []
        self.writes = []
        self.prune = prune
        self.stalled = False
        self.url = ""
        self._version = 0
        self._uids = itertools.count(1)
        self._faults = []
        self._crash = None
        self.crashed = asyncio.Event()
        self._applied = {}
        self._news = asyncio.Condition()
        self._generation = 0
        self._bookmark_seconds = bookmark_seconds

    async def __aenter__(self):
        app = web.Application(client_max_size=32 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    def endpoint(self):
        return Endpoint(self.url, None, "default", TokenSource())

    # what tests do

    def objects(self, kind):
        return [
            obj
            for (key, found) in self.collections.items()
            if KINDS[key] == kind
            for obj in found.objects.values()
        ]

    def get(self, kind, name, namespace="default"):
        return next((o for o in self.objects(kind) if _key(o) == (namespace, name)), None)

    def put(self, obj, manager="kubectl-edit", time="2026-01-01T00:00:00Z"):
        """Create or replace as a user would; a status that is left out stays."""
        key, collection = self._collection_of(obj)
        stored = collection.objects.get(_key(obj))
        new = copy.deepcopy(obj)
        if stored is not None:
            new["metadata"] = {**stored["metadata"], **new["metadata"]}
            new["metadata"].pop("resourceVersion", None)
            if "status" in stored:
                new.setdefault("status", stored["status"])
        own(new, manager, "Update", None, time)
        return self._store(key, new, stored)

    def delete(self, kind, name, namespace="default"):
        obj = self.get(kind, name, namespace)
        key, collection = self._collection_of(obj)
        if obj["metadata"].get("finalizers"):
            new = copy.deepcopy(obj)
            new["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            self._store(key, new, obj)
            return
        del collection.objects[(namespace, name)]
        gone = copy.deepcopy(obj)
        gone["metadata"]["resourceVersion"] = self._next()
        self._tell(collection, "DELETED", gone)

    def forget(self, kind, name, namespace="default"):
        """Delete without telling anybody: what a broken watch would have missed."""
        _, collection = self._collection_of(self.get(kind, name, namespace))
        del collection.objects[(namespace, name)]
        self._next()

    def fail(self, status, *, times=1, method=None, path="", after=False, headers=None):
        """Answer *status* (None: cut the connection) for the next *times* matching requests."""

        def matches(asked_method, asked_path):
            return (method is None or asked_method == method) and path in asked_path

        self._faults.append(Fault(matches, status, times, after, headers or {}))

    def crash_at(self, write, *, after):
        """Hear nothing more once so many writes came: whoever wrote is dead. `after`: that one is stored."""
        self._crash = (write, after)
        self.crashed.clear()

    def heal(self):
        """Take back what `fail` and `crash_at` scripted."""
        self._faults.clear()
        self._crash = None
        self.crashed.clear()

    def compact(self):
        """Forget the past: watches and lists from before are answered 410."""
        for collection in self.collections.values():
            collection.history.clear()
            collection.oldest = self._version

    async def drop(self):
        """End every watch at once."""
        self._generation += 1
        async with self._news:
            self._news.notify_all()

    def counted(self, *verbs):
        return Counter(call for call in self.calls if not verbs or call[0] in verbs)

    # requests

    async def _answer(self, request):
        found = self._route(request)
        if found is None:
            return _status(404, "the server could not find the requested resource")
        key, namespace, name, subresource = found
        watch = request.query.get("watch") == "true"
        verb = {"GET": "watch" if watch else "get" if name else "list", "POST": "create", "PUT": "update",
                "PATCH": "patch", "DELETE": "delete"}[request.method]  # fmt: skip
        group = key[0].rpartition("/")[0]
        self.calls.append((verb, group, key[1] + (f"/{subresource}" if subresource else "")))
        fault = next(
            (f for f in self._faults if f.times > 0 and f.matches(request.method, request.path)), None
        )
        if self._crash is not None and await self._dies(request, key, namespace, name, subresource):
            request.transport.abort()
            return web.Response()
        if fault is not None:
            fault.times -= 1
            if fault.after:
                await self._carry_out(request, key, namespace, name, subresource)
            if fault.status is None:
                request.transport.abort()
                return web.Response()
            return _status(fault.status, "scripted", fault.headers)
        if watch:
            return await self._watch(request, key)
        return await self._carry_out(request, key, namespace, name, subresource)

    async def _dies(self, request, key, namespace, name, subresource):
        if self.crashed.is_set():
            return True
        if request.method == "GET" or key[1] == "leases":
            return False
        left, after = self._crash
        self._crash = (left - 1, after)
        if left > 1:
            return False
        self.crashed.set()
        if after:
            await self._carry_out(request, key, namespace, name, subresource)
        return True

    async def _carry_out(self, request, key, namespace, name, subresource):
        collection = self.collections[key]
        stored = collection.objects.get((namespace, name))
        body = json.loads(await request.read()) if request.can_read_body else None
        if request.method == "GET":
            if name is None:
                return self._list(request, key)
            return _json(stored) if stored else _status(404, f'{key[1]} "{name}" not found')
        apply = request.content_type == "application/apply-patch+yaml"
        creates = request.method == "POST" or (apply and subresource is None)
        if stored is None and not creates:
            return _status(404, f'{key[1]} "{name}" not found')
        if refusal := self._refusal(key, body, stored):
            return refusal
        if request.method == "POST":
            own(body, "client", "Update", None)
            return _json(self._store(key, body, None, written=True), 201)
        if request.method == "PUT":
            new = body
        elif apply:
            new = self._apply(stored, body, key, (request.query["fieldManager"], subresource))
        else:
            new = merge(stored, body)
        if stored is not None:
            new = (
                {**stored, "status": new.get("status")}
                if subresource
                else {**new, "status": stored.get("status")}
            )
            new["metadata"] = {**new["metadata"], "resourceVersion": stored["metadata"]["resourceVersion"]}
            new = {part: value for part, value in new.items() if value is not None}
        return _json(self._store(key, new, stored, written=True))

    def _list(self, request, key):
        items = sorted(self.collections[key].objects.values(), key=_key)
        items = [obj for obj in items if _selected(obj, request.query.get("labelSelector"))]
        start = 0
        if token := request.query.get("continue"):
            version, start = (int(part) for part in token.split(","))
            if version < self.collections[key].oldest:
                return _status(410, "The provided continue parameter is too old")
        limit = int(request.query.get("limit", 0)) or len(items)
        metadata = {"resourceVersion": str(self._version)}
        if start + limit < len(items):
            metadata["continue"] = f"{self._version},{start + limit}"
        return _json({"metadata": metadata, "items": items[start : start + limit]})

    async def _watch(self, request, key):
        collection = self.collections[key]
        version = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        generation = self._generation
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + float(request.query["timeoutSeconds"])
        while generation == self._generation and loop.time() < ends_at:
            if self.stalled:
                await asyncio.sleep(3600)
            if version < collection.oldest:
                gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                break
            for at, kind, obj in collection.history[_first_after(collection.history, version) :]:
                version = at
                if _selected(obj, request.query.get("labelSelector")):
                    await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
            try:
                async with asyncio.timeout(self._bookmark_seconds), self._news:
                    seen = version
                    await self._news.wait_for(lambda: (self._version, self._generation) != (seen, generation))  # noqa: B023 - awaited here
                if not collection.history or collection.history[-1][0] <= version:
                    version = self._version
            except TimeoutError:
                bookmark = {"metadata": {"resourceVersion": str(version)}}
                await response.write(json.dumps({"type": "BOOKMARK", "object": bookmark}).encode() + b"\n")
        return response

    def _route(self, request):
        parts = request.path.strip("/").split("/")
        version, rest = ("/".join(parts[1:3]), parts[3:]) if parts[0] == "apis" else (parts[1], parts[2:])
        namespace = None
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        key = (version, rest[0]) if rest else None
        if key not in self.collections:
            return None
        return key, namespace, rest[1] if len(rest) > 1 else None, rest[2] if len(rest) > 2 else None

    # storage

    def _apply(self, stored, body, key, manager):
        place = (key, _key(body), manager)
        before = self._applied.get(place, {})
        self._applied[place] = body
        new = copy.deepcopy(stored) if stored else {}
        for path in sorted(leaves(before) - leaves(body), key=len):
            remove(new, path)
        overlay(new, body)
        own(new, manager[0], "Apply", manager[1])
        return new

    def _refusal(self, key, body, stored):
        """Return why the API server would not store an object: it is too large, or no longer that one."""
        size = sum(len(value.encode()) for value in (body.get("data") or {}).values())
        if KINDS[key] == "ConfigMap" and size > MAX_DATA:
            return _status(422, f"[]: Too long: may not be more than {MAX_DATA} bytes")
        if stored is None and body["metadata"].get("name") and _key(body) in self.collections[key].objects:
            return _status(409, "AlreadyExists")
        for precondition in ("resourceVersion", "uid"):
            expected = body.get("metadata", {}).get(precondition)
            if expected and (stored is None or expected != stored["metadata"][precondition]):
                return _status(409, f"Precondition failed: {precondition}: {expected}")
        return None

    def _store(self, key, obj, stored, *, written=False):
        if self.prune is not None:
            obj = self.prune(obj)
        metadata = obj["metadata"]
        metadata.setdefault("namespace", "default")
        metadata.setdefault("uid", f"uid-{next(self._uids)}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        collection = self.collections[key]
        if written:
            self.writes.append((KINDS[key], metadata["name"]))
        if stored is not None and obj == stored:
            return stored
        if stored is None or obj.get("spec") != stored.get("spec"):
            metadata["generation"] = (stored["metadata"].get("generation", 0) if stored else 0) + 1
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            del collection.objects[_key(obj)]
            metadata["resourceVersion"] = self._next()
            self._tell(collection, "DELETED", copy.deepcopy(obj))
            return obj
        metadata["resourceVersion"] = self._next()
        collection.objects[_key(obj)] = obj
        self._tell(collection, "ADDED" if stored is None else "MODIFIED", obj)
        return obj

    def _next(self):
        self._version += 1
        return str(self._version)

    def _tell(self, collection, kind, obj):
        collection.history.append((int(obj["metadata"]["resourceVersion"]), kind, obj))
        asyncio.get_running_loop().create_task(self._wake())

    async def _wake(self):
        async with self._news:
            self._news.notify_all()

    def _collection_of(self, obj):
        key = (obj["apiVersion"], PLURALS[obj["apiVersion"], obj["kind"]])
        return key, self.collections[key]


def _first_after(history, version):
    low, high = 0, len(history)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if history[middle][0] <= version else (low, middle)
    return low


def _key(obj):
    return obj["metadata"].get("namespace", "default"), obj["metadata"]["name"]


def _selected(obj, selector):
    labels = obj["metadata"].get("labels") or {}
    for part in (selector or "").split(","):
        name, equals, value = part.partition("=")
        if part and (name not in labels or (equals and labels[name] != value)):
            return False
    return True


def _json(obj, status=200):
    return web.json_response(obj, status=status)


def _status(code, message, headers=None):
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code, headers=headers)
