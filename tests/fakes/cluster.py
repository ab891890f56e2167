"""A cluster for the controller's tests: the fake API server, and pods whose agents answer /status.

Each agent does what a kubelet and an agent together do: it takes the models of its shard's ConfigMap for
loaded as soon as it is asked, unless the test says otherwise.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
from datetime import UTC, datetime, timedelta

import aiohttp
from aiohttp import web

from agent.controller.loop import Controller, ControllerSettings
from agent.kube.client import ApiClient
from tests.fakes.apiserver import ApiServer

QUICK = ControllerSettings(unsettled_seconds=0.03, settled_seconds=0.1, rest_seconds=0.01, ask_seconds=0.5)


class Leading:
    """Leadership that a test can take away."""

    held = True


class Agent:
    """One pod's agent. `failing` maps names to (reason, message); `frozen` keeps what it was shown last."""

    def __init__(self, server, parent, shard):
        self.server, self.parent, self.shard = server, parent, shard
        self.failing, self.frozen, self.silent, self.body = {}, None, False, None
        self.asked = 0

    def document(self):
        if self.frozen is not None:
            return self.frozen
        stored = self.server.get("ConfigMap", f"modelconfig-{self.parent}-{self.shard}")
        return stored["data"]["models.json"] if stored else "[]"

    async def answer(self, _):
        self.asked += 1
        if self.silent:
            await asyncio.sleep(3600)
        if self.body is not None:
            return web.Response(body=self.body)
        text = self.document()
        return web.json_response(
            {
                "apiVersion": "model-agent/v1",
                "config": {"path": "/p", "digest": None, "accepted": 0, "rejected": [], "error": None,
                           "plannedDigest": hashlib.sha256(text.encode()).hexdigest()},
                "models": [self.model(entry) for entry in json.loads(text)],
            }
        )  # fmt: skip

    def model(self, entry):
        reason, message = self.failing.get(entry["modelName"], (None, None))
        return {
            "name": entry["modelName"],
            "phase": "Failed" if reason else "Ready",
            "ready": reason is None,
            "reason": reason,
            "message": message,
            "spec": {**entry["modelSpec"], "storageUri": entry["modelSpec"]["storageUri"].partition("?")[0]},
        }


class Cluster:
    """Use as an async context manager."""

    def __init__(self, *absent, settings=QUICK, prune=None, server=None):
        self.server = server or ApiServer(*absent, prune=prune)
        self.settings = settings
        self.leading = Leading()
        self._seconds = itertools.count()
        self.agents = {}
        self._runners = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        await self._stack.enter_async_context(self.server)
        self.session = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(self, *_):
        for runner in self._runners:
            await runner.cleanup()
        await self._stack.aclose()

    def utc(self):
        """A clock that goes on by a second with each look: the tests' agents are asked many times in one."""
        return datetime.now(UTC) + timedelta(seconds=next(self._seconds))

    def client(self):
        client = ApiClient(self.server.endpoint(), self.session)
        self.server.clients.append(client)
        return client

    @contextlib.asynccontextmanager
    async def controller(self, **changes):
        settings = ControllerSettings(
            **{name: getattr(self.settings, name) for name in ControllerSettings.__slots__} | changes
        )
        controller = Controller(self.client(), self.session, self.leading, settings, self.utc)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(controller.run())
            try:
                yield controller
            finally:
                task.cancel()

    async def until(self, holds, seconds=15):
        """Wait until a condition of the stored objects holds."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.01)

    async def settle(self, controller, seconds=15):
        """Wait until nothing was written for several rounds of asking the agents."""
        async with asyncio.timeout(seconds):
            while True:
                before = len(self.server.writes)
                await asyncio.sleep(0.35)
                if controller.quiet and len(self.server.writes) == before:
                    return

    async def pod(self, name, parent="p", shard=None):
        """Start a pod with an agent, ready at once."""
        agent = self.agents[name] = Agent(self.server, parent, shard or 0)
        app = web.Application()
        app.router.add_get("/status", agent.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.server.put(pod(name, parent, shard, port))
        return agent

    def models(self, parent="p", shard=0):
        stored = self.server.get("ConfigMap", f"modelconfig-{parent}-{shard}")
        return (
            None
            if stored is None
            else [entry["modelName"] for entry in json.loads(stored["data"]["models.json"])]
        )

    def condition(self, name, kind="Ready"):
        """Return (status, reason) of a condition, None where there is none."""
        stored = self.server.get("TrainedModel", name)
        listed = ((stored or {}).get("status") or {}).get("conditions", [])
        return next(((c["status"], c.get("reason")) for c in listed if c["type"] == kind), None)

    def ready(self, *names):
        return all(self.condition(name) == ("True", None) for name in names)


def labels(parent, shard=None):
    named = {"serving.kserve.io/inferenceservice": parent}
    return named | ({} if shard is None else {"serving.kserve.io/shard": str(shard)})


def pod(name, parent="p", shard=None, port=9082):
    ports = [{"name": "agent-status", "containerPort": port}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels(parent, shard)},
        "spec": {"containers": [{"name": "agent", "image": "none", "ports": ports}]},
        "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def inference_service(name="p", memory="1Gi", ready=True, **predictor):
    settings = {"resources": {"limits": {"memory": memory}}} | predictor
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"predictor": {"sklearn": settings}},
        "status": {
            "url": f"http://{name}.default.example.com",
            "address": {"url": f"http://{name}.default.svc.cluster.local"},
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def deployment(name="d", parent="p", shard=None, memory="1Gi", available=True):
    server = {"name": "server", "image": "none", "resources": {"limits": {"memory": memory}}}
    template = {"metadata": {"labels": labels(parent, shard)}, "spec": {"containers": [server]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": labels(parent, shard)},
        "spec": {"selector": {"matchLabels": labels(parent, shard)}, "template": template},
        "status": {"conditions": [{"type": "Available", "status": "True" if available else "False"}]},
    }


def service(name="s", parent="p", shard=None):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "labels": labels(parent, shard)},
        "spec": {"ports": [{"port": 80}]},
    }
