"""The controller with 10,000 TrainedModels over 20 parents: `python -m tests.bench.controller [MODELS]`.

The fake API server and the pods' agents run in a process of their own, so that the memory told is the
controller's. Told: seconds from start to a quiet state, API calls, peak RSS; then, for one change, the
writes made and the milliseconds to the ConfigMap write. Nothing is asserted.
"""

import asyncio
import contextlib
import json
import resource
import sys
import time

import aiohttp

from agent.controller.loop import Controller, ControllerSettings
from agent.kube.client import ApiClient
from agent.kube.endpoint import Endpoint, TokenSource
from agent.kube.resources import CONFIG_MAPS, TRAINED_MODELS
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import Cluster, Leading, inference_service

PARENTS = 20


async def serve(models):
    """Be the cluster: print the URL, then stay until standard input ends."""
    async with Cluster() as cluster:
        for number in range(PARENTS):
            cluster.server.put(inference_service(f"p{number}", memory="1Ti"))
            await cluster.pod(f"pod-{number}", f"p{number}")
        for number in range(models):
            uri = f"s3://bucket/models/model-{number:05}/1.0"
            cluster.server.put(trained_model(f"model-{number:05}", uri, "256Mi", f"p{number % PARENTS}"))
        print(cluster.server.url, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        ready = sum(cluster.ready(f"model-{number:05}") for number in range(models))
        print(json.dumps({"ready": ready, "writes": len(cluster.server.writes)}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def measure(models):
    command = [sys.executable, "-m", "tests.bench.controller", str(models), "--serve"]
    server = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    url = (await server.stdout.readline()).decode().strip()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        client = ApiClient(Endpoint(url, None, "default", TokenSource()), session)
        controller = Controller(client, session, Leading(), ControllerSettings())
        started, cpu = time.perf_counter(), time.process_time()
        running = group.create_task(controller.run())
        quiet_at = await quiet(controller, client)
        print(f"{models} models over {PARENTS} parents")
        print(f"quiet after {quiet_at - started:.1f} s, {time.process_time() - cpu:.1f} CPU s")
        print(f"API calls {sum(client.requests.values())}: {client.requests}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak RSS {peak:.0f} MiB")
        await change(client, controller)
        server.stdin.write(b"\n")
        print("the server says", (await server.stdout.readline()).decode().strip())
        running.cancel()
    server.stdin.write(b"\n")
    await server.wait()


async def quiet(controller, client):
    """Wait until nothing was written for three seconds; return when the last write was seen."""
    last, seen = time.perf_counter(), -1
    while time.perf_counter() - last < 3 or not controller.quiet:
        writes = sum(count for method, count in client.requests.items() if method != "GET")
        if writes != seen:
            last, seen = time.perf_counter(), writes
        await asyncio.sleep(0.05)
    return last


async def change(client, controller):
    """Change one model, and see what it costs."""
    before = dict(client.requests)
    config = controller.view._kinds[CONFIG_MAPS]
    version = config.get(("default", "modelconfig-p7-0"))["metadata"]["resourceVersion"]
    changed_at = time.perf_counter()
    patch = {"spec": {"model": {"storageUri": "s3://bucket/models/model-00007/2.0"}}}
    await client.merge(TRAINED_MODELS, "default", "model-00007", patch)
    while config.get(("default", "modelconfig-p7-0"))["metadata"]["resourceVersion"] == version:
        await asyncio.sleep(0.0005)
    written_at = time.perf_counter()
    await quiet(controller, client)
    made = {m: n - before.get(m, 0) for m, n in client.requests.items() if n != before.get(m, 0)}
    made["PATCH"] -= 1  # our own
    print(f"one change: ConfigMap written after {(written_at - changed_at) * 1000:.0f} ms, calls {made}")


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(wanted) if "--serve" in sys.argv else measure(wanted))
