import asyncio
import contextlib
from dataclasses import replace

import aiohttp
import pytest
import yaml

from agent.controller.run import ControllerOptions, run_controller
from agent.core.errors import TerminalError
from tests.core.trainedmodels import trained_model
from tests.fakes.cluster import QUICK
from tests.servers.real import free_ports


@pytest.fixture
def options(cluster, tmp_path):
    path = tmp_path / "config"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "namespace": "default"}}],
        "clusters": [{"name": "k", "cluster": {"server": cluster.server.url}}],
    }
    path.write_text(yaml.safe_dump(config))
    return ControllerOptions(kubeconfig=path, probe_host="127.0.0.1", probe_port=0, settings=QUICK)


async def test_it_runs_from_a_kubeconfig_and_gives_its_lease_up_when_told_to_stop(cluster, options):
    cluster.server.put(trained_model("m"))
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run_controller(options, {}, stop))
        await cluster.until(lambda: cluster.ready("m"))
        assert cluster.server.get("Lease", "model-agent-controller")["spec"]["holderIdentity"]
        stop.set()
        async with asyncio.timeout(5):
            assert await running == 0
    assert cluster.server.get("Lease", "model-agent-controller")["spec"]["holderIdentity"] == ""


async def test_the_second_of_two_waits_and_takes_over_when_the_first_stops(cluster, options):
    stops = [asyncio.Event(), asyncio.Event()]
    async with asyncio.TaskGroup() as group:
        first = group.create_task(run_controller(options, {}, stops[0]))
        await cluster.until(lambda: cluster.models() == [])
        second = group.create_task(run_controller(options, {}, stops[1]))
        holder = cluster.server.get("Lease", "model-agent-controller")["spec"]["holderIdentity"]
        stops[0].set()
        assert await first == 0
        cluster.server.put(trained_model("m"))
        await cluster.until(lambda: cluster.ready("m"))
        assert cluster.server.get("Lease", "model-agent-controller")["spec"]["holderIdentity"] != holder
        stops[1].set()
        assert await second == 0


async def test_two_that_only_say_loaded_take_turns_as_well(cluster, options):
    only = replace(options, settings=replace(QUICK, status_only=True))
    cluster.server.put(trained_model("m"))
    stops = [asyncio.Event(), asyncio.Event()]
    async with asyncio.TaskGroup() as group:
        first = group.create_task(run_controller(only, {}, stops[0]))
        await cluster.until(lambda: cluster.condition("m", "Loaded"))
        second = group.create_task(run_controller(only, {}, stops[1]))
        await cluster.until(lambda: cluster.server.counted("get")["get", "coordination.k8s.io", "leases"] > 1)
        lists = cluster.server.counted("list")
        stops[1].set()
        assert await second == 0
        assert cluster.server.counted("list") == lists  # the second has not even begun to read
        stops[0].set()
        assert await first == 0


async def test_readyz_tells_one_that_leads_and_cannot_read_from_one_that_reads_and_one_that_waits(
    cluster, options
):
    ports = free_ports(2)
    cluster.server.fail(404, times=3, path="trainedmodels")
    stop = asyncio.Event()

    async def probe(port):
        async with cluster.session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            return answer.status, await answer.text()

    async def told(port, *words):
        async with asyncio.timeout(15):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    if await probe(port) == words:
                        return
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        group.create_task(run_controller(replace(options, probe_port=ports[0]), {}, stop))
        await told(ports[0], 503, "not read yet: trainedmodels")
        await told(ports[0], 200, "ok")
        group.create_task(run_controller(replace(options, probe_port=ports[1]), {}, stop))
        await told(ports[1], 200, "another leads")
        stop.set()


async def test_one_told_to_stop_while_it_waits_for_the_lease_ends_at_once(cluster, options):
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 60, "renewTime": "2026-01-01T00:00:00.000000Z"}
    metadata = {"name": "model-agent-controller", "namespace": "default"}
    cluster.server.put(
        {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run_controller(options, {}, stop))
        await cluster.until(lambda: cluster.server.counted("get")["get", "coordination.k8s.io", "leases"])
        stop.set()
        async with asyncio.timeout(5):
            assert await running == 0
    assert cluster.server.writes == []


async def test_outside_a_pod_the_usual_kubeconfigs_are_found(cluster, options, tmp_path):
    usual = tmp_path / ".kube/config"
    usual.parent.mkdir()
    usual.write_text(options.kubeconfig.read_text())
    for environ in ({"KUBECONFIG": f"{options.kubeconfig}:/none"}, {"HOME": str(tmp_path)}):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            found = ControllerOptions(probe_host="127.0.0.1", probe_port=0, settings=QUICK)
            running = group.create_task(run_controller(found, environ, stop))
            await cluster.until(lambda: cluster.models() == [])
            stop.set()
            assert await running == 0
        cluster.server.delete("ConfigMap", "modelconfig-p-0")


async def test_without_any_way_to_a_server_it_says_what_to_give():
    with pytest.raises(TerminalError, match="--kubeconfig"):
        await run_controller(ControllerOptions(), {}, asyncio.Event())
