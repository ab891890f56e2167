"""`model-agent controller` without its flags: a client, a lease, the controller, and a port for probes."""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from agent.controller.loop import Controller, ControllerSettings
from agent.kube.client import ApiClient
from agent.kube.endpoint import find_endpoint
from agent.kube.lease import Lease

log = logging.getLogger("agent.controller")

LEASE_NAME = "model-agent-controller"


@dataclass(frozen=True, slots=True)
class ControllerOptions:
    """What the command line says.

    Without *kubeconfig* the pod's service account is used; outside of a pod the first file of KUBECONFIG,
    then ~/.kube/config.

    *namespace* is that of the lease, by default where we are. Probes are answered on *probe_port*; 0 is
    any free one.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None
    probe_host: str = "0.0.0.0"  # noqa: S104 - the kubelet asks from outside the pod
    probe_port: int = 8081
    settings: ControllerSettings = field(default_factory=ControllerSettings)


async def run_controller(options: ControllerOptions, environ: Mapping[str, str], stop: asyncio.Event) -> int:
    """Run until *stop* is set (exit code 0) or the lease is lost (1: start again).

    Raises TerminalError where there is no way to reach an API server.
    """
    endpoint = await asyncio.to_thread(find_endpoint, environ, options.kubeconfig, options.context)
    identity = f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
        client = ApiClient(endpoint, session)
        lease = Lease(client, options.namespace or endpoint.namespace, LEASE_NAME, identity)
        controller = Controller(client, session, lease, options.settings)
        runner = await _probes(controller, lease, options)
        try:
            return await _run(controller, lease, stop)
        finally:
            await runner.cleanup()
            await lease.release()


async def _run(controller: Controller, lease: Lease, stop: asyncio.Event) -> int:
    async with asyncio.TaskGroup() as group:
        stopped = group.create_task(stop.wait(), name="stop")
        contending = group.create_task(lease.run(), name="lease")
        acquired = group.create_task(lease.acquire(), name="acquire")
        tasks = [stopped, contending, acquired]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if acquired.done() and not stop.is_set():
            tasks.append(group.create_task(controller.run(), name="controller"))
            await asyncio.wait([stopped, contending], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return 0 if stop.is_set() else 1


async def _probes(controller: Controller, lease: Lease, options: ControllerOptions) -> web.AppRunner:
    """Answer /healthz always, and 200 on /readyz once everything was read, or while another leads."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        if lease.others:
            return web.Response(text="another leads")
        unread = controller.view.unread if lease.held else ()
        if lease.held and not unread:
            return web.Response(text="ok")
        words = f"not read yet: {', '.join(unread)}" if unread else "waiting for the lease"
        return web.Response(status=503, text=words)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, options.probe_host, options.probe_port).start()
    return runner
