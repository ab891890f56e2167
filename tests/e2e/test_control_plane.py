"""From TrainedModel objects to conditions, all joined: nothing but the API server is played.

controller -> ConfigMap -> a kubelet's mount -> two agents -> two MLServers -> /status -> conditions
"""

import asyncio
import contextlib
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.core.trainedmodels import trained_model
from tests.e2e.rig import make_rig
from tests.fakes.cluster import Cluster, deployment, pod, service
from tests.fakes.origin import Origin
from tests.servers import real

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PODS = ("pod-a", "pod-b")


class Plane:
    """A parent of two replicas with 600Mi each, and storage; models answer the number of their version."""

    def __init__(self, cluster, origin, rigs):
        self.cluster, self.origin, self.rigs = cluster, origin, rigs

    def apply(self, name, answer, memory="256Mi"):
        """Store a TrainedModel of that version, of one that the server refuses for None."""
        broken = answer is None
        files = real.broken_files_of("mlserver", name) if broken else real.files_of("mlserver", name, answer)
        path = f"{name}-{answer}/model.joblib"
        self.origin.put(f"/{path}", files["model.joblib"])
        uri = f"http://127.0.0.1:{self.origin.port}/{path}"
        self.cluster.server.put(trained_model(name, uri, memory))

    async def answers(self, name):
        """Return what each replica itself answers for a model."""
        return [await real.ask(rig.server.url, "mlserver", name) for rig in self.rigs]

    async def until(self, *conditions, name="m"):
        """Wait until the conditions of a model are (type, status, reason)."""

        def holds():
            return all(self.cluster.condition(name, kind) == tuple(rest) for kind, *rest in conditions)

        try:
            await self.cluster.until(holds, seconds=60)
        except TimeoutError:
            raise AssertionError(f"{self.status(name)}\n{self.rigs[0].agent.tail()}") from None

    def status(self, name):
        return self.cluster.server.get("TrainedModel", name).get("status")


async def mount(cluster, rigs):
    """Do what kubelets do: bring the ConfigMap into each pod, again and again."""
    while True:
        stored = cluster.server.get("ConfigMap", "modelconfig-p-0")
        for rig in rigs if stored is not None else ():
            rig.kubelet.write({key: value.encode() for key, value in stored["data"].items()})
        await asyncio.sleep(0.05)


@asynccontextmanager
async def joined(folder):
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster("InferenceService"))
        origin = await stack.enter_async_context(Origin().serving())
        rigs = []
        for name in PODS:
            (folder / name / "volume/models").mkdir(parents=True)
            server = await stack.enter_async_context(
                real.mlserver(folder / name / "volume/models", start=False)
            )
            rigs.append(make_rig(folder / name, origin, server, "mlserver", beside=True))
            stack.callback(rigs[-1].agent.end)
            rigs[-1].agent.launch()
        async with asyncio.TaskGroup() as group:
            for rig in rigs:
                group.create_task(rig.server.start())
        parent = deployment("d", memory="600Mi")
        parent["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "PROTOCOL", "value": "v2"}]
        cluster.server.put(parent)
        cluster.server.put(service("s"))
        for name, rig in zip(PODS, rigs, strict=True):
            await rig.agent.up()
            cluster.server.put(pod(name, port=rig.agent.port))
        kubelets = asyncio.create_task(mount(cluster, rigs), name="kubelets")
        async with cluster.controller():
            yield Plane(cluster, origin, rigs)
        kubelets.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await kubelets


async def test_what_is_applied_is_served_by_every_replica_and_told_whatever_comes(tmp_path):
    async with joined(tmp_path) as plane:
        plane.apply("m", 1)
        await plane.until(("Ready", "True", None), ("Loaded", "True", "Loaded"))
        assert await plane.answers("m") == [1, 1]
        told = plane.status("m")
        assert (told["url"], told["loaded"]) == (
            "http://s.default.svc.cluster.local/v2/models/m/infer",
            "2/2",
        )

        plane.apply("m", 2)  # an update
        await plane.cluster.until(lambda: plane.status("m")["observedGeneration"] == 2, seconds=60)
        await plane.until(("Ready", "True", None))
        assert await plane.answers("m") == [2, 2]

        plane.apply("m", None)  # an update that the server refuses
        await plane.until(("Loaded", "False", "LoadRejected"), ("Stalled", "True", "LoadRejected"))
        assert await plane.answers("m") == [2, 2]
        assert any(event["reason"] == "LoadRejected" for event in plane.cluster.server.objects("Event"))

        plane.apply("m", 3)
        await plane.until(("Ready", "True", None))
        assert await plane.answers("m") == [3, 3]

        plane.apply("n", 7, memory="400Mi")  # more than is left
        await plane.until(("MemoryResourceAvailable", "False", "MemoryResourceNotAvailable"), name="n")
        assert plane.cluster.models() == ["m"]
        assert await plane.answers("n") == [None, None]

        plane.cluster.server.delete("TrainedModel", "m")  # which makes room
        await plane.until(("Ready", "True", None), name="n")
        assert await plane.answers("n") == [7, 7]
        for rig in plane.rigs:
            await rig.settled("n", seconds=60)
        assert await plane.answers("m") == [None, None]
