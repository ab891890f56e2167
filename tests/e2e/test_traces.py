"""One trace tells a model's way to Ready, to storage too; where none is asked for nothing of it is loaded."""

import json
import re
import subprocess
import sys
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.demo.dummy_server import DummyServer
from tests.e2e.agent_process import ROOT, until
from tests.e2e.rig import started
from tests.fakes.collector import Collector

STEPS = ("resolve", "fetch", "verify", "publish", "load")


def journeys(collector: Collector, model: str, outcome: str):
    return collector.named("model to Ready", model=model, outcome=outcome)


def logged(rig, text: str) -> list[dict]:
    lines = [json.loads(line) for line in rig.agent.said().splitlines() if line.startswith("{")]
    return [line for line in lines if line["msg"] == text]


async def test_a_models_way_to_ready_is_one_trace_that_storage_and_log_know(tmp_path):
    async with Collector().serving() as collector:
        environ = collector.environ() | {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=k1", "POD_NAME": "pod-7"}
        async with started(tmp_path, environ=environ, flags={"log-format": "json"}) as rig:
            rig.put("a/1", b"first")
            rig.want(a="a/1")
            await rig.settled("a")
            await until(lambda: journeys(collector, "a", "ready"), what="the trace of a")
            (root,) = journeys(collector, "a", "ready")
            steps = {each.name: each for each in collector.trace(root.trace) if each.parent}
            assert steps.keys() == set(STEPS)
            assert all(each.parent == root.id and each.failure is None for each in steps.values())
            assert sum(each.seconds for each in steps.values()) <= root.seconds
            assert steps["fetch"].attributes["modelagent.bytes"] == len(b"first")
            assert root.attributes["modelagent.uri"] == rig.uri("a/1")
            assert root.resource["service.name"] == "model-agent"
            assert root.resource["k8s.pod.name"] == "pod-7"
            told = {each.method: each.headers["traceparent"][:-3] for each in rig.origin.received}
            assert told == {
                "HEAD": f"00-{root.trace}-{steps['resolve'].id}",
                "GET": f"00-{root.trace}-{steps['fetch'].id}",
            }
            assert [line["trace_id"] for line in logged(rig, "model is ready")] == [root.trace]
            assert collector.headers[0]["x-key"] == "k1"


@asynccontextmanager
async def recording_server(folder):
    """A model server that remembers which trace each load was a part of."""
    told = {}

    @web.middleware
    async def note(request, handler):
        told[request.path] = request.headers.get("traceparent")
        return await handler(request)

    app = DummyServer(folder / "volume" / "models").app()
    app.middlewares.append(note)
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.port}", told


async def test_the_model_server_is_told_of_the_trace_that_a_load_is_a_part_of(tmp_path):
    async with Collector().serving() as collector, recording_server(tmp_path) as (url, told):
        flags, environ = {"server-url": url}, collector.environ()
        async with started(tmp_path, flags=flags, environ=environ, server=False) as rig:
            rig.put("a/1", b"first")
            rig.want(a="a/1")
            await rig.settled("a")
            await until(lambda: collector.named("load"), what="the load's span")
        (load,) = collector.named("load")
        assert told["/v2/repository/models/a/load"].startswith(f"00-{load.trace}-{load.id}-")
        assert told["/v2/health/ready"] is None, "looking at the server is no part of any model's way"


async def test_a_failure_is_told_by_its_reason_and_a_changed_spec_begins_a_trace_that_is_linked(tmp_path):
    async with Collector().serving() as collector:
        async with started(tmp_path, environ=collector.environ()) as rig:
            rig.want(a="none?X-Amz-Signature=c4n4ry")
            await until(lambda: collector.named("resolve"), what="the failed listing")
            rig.put("a/1", b"first")
            rig.want(a="a/1", leaves="none")
            await rig.agent.wait(lambda status: "a" in status.done and status.model("leaves").get("attempts"))
            await until(lambda: journeys(collector, "a", "ready"), what="the trace of a")
            rig.want(a="a/1", stays="none")
            await until(lambda: journeys(collector, "leaves", "dropped"), what="the trace of what left")
            await rig.agent.wait(lambda status: status.model("stays").get("attempts"))
            assert (await rig.agent.terminate())[0] == 0
        (first,) = journeys(collector, "a", "superseded")
        (second,) = journeys(collector, "a", "ready")
        assert second.links == (first.trace,)
        failed = [each for each in collector.trace(first.trace) if each.name == "resolve"]
        assert all(each.failure.startswith("NotFound: ") and each.events == () for each in failed)
        assert "failed" in first.events
        assert journeys(collector, "stays", "agent stopped"), "what is under way is sent at the end"
        assert "c4n4ry" not in repr(collector.spans)


async def test_a_collector_that_refuses_is_said_once_and_nothing_of_its_words(tmp_path):
    async with Collector(refuse=401).serving() as collector:
        environ = collector.environ() | {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=c4n4ry,broken c4n4ry"}
        async with started(tmp_path, environ=environ, flags={"log-format": "json"}) as rig:
            for number in range(3):
                rig.put(f"m/{number}", b"x")
            rig.want(**{f"m{number}": f"m/{number}" for number in range(3)})
            await rig.settled("m0", "m1", "m2")
            await until(lambda: len(collector.headers) >= 2, what="two batches")
            code, seconds = await rig.agent.terminate()
        assert code == 0
        assert seconds < 10
        said = rig.agent.said()
        assert said.count("traces cannot be sent") == 1
        assert said.count("a header for traces is not name=value") == 1
        assert "c4n4ry" not in said


async def test_a_collector_that_hangs_delays_no_model_and_not_the_end(tmp_path):
    async with Collector(hangs=True).serving() as collector:
        environ = collector.environ() | {"OTEL_EXPORTER_OTLP_TIMEOUT": "60"}
        async with started(tmp_path, environ=environ) as rig:
            rig.put("a/1", b"first")
            rig.want(a="a/1")
            await rig.settled("a")
            await until(lambda: collector.headers, what="the first batch")
            code, seconds = await rig.agent.terminate()
        assert code == 0
        assert seconds < 15, "a second for the traces, not the half minute that the SDK would wait"


LOADED = """
import asyncio, sys
from agent.app import Sidecar
from agent.settings import read_settings
from agent.commands.run import configure
configure("info", "json", sys.stderr)
environ = dict(each.split("=", 1) for each in sys.argv[2:])
settings = read_settings(["--config-dir", sys.argv[1], "--model-dir", sys.argv[1], "--status-port", "0",
    "--timeout", "1", "--once"], {})
async def main():
    sidecar = Sidecar(settings, environ)
    await sidecar.run()
asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry.sdk")])
"""


def loaded(folder, *environ: str, before: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "models.json").write_text("[]")
    return subprocess.run(
        [sys.executable, "-c", before + LOADED, folder, *environ],
        capture_output=True, text=True, cwd=ROOT, check=True, timeout=60,
    )  # fmt: skip


def test_no_tracing_library_is_loaded_where_no_traces_are_asked_for(tmp_path):
    off = "OTEL_SDK_DISABLED=true", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9"
    assert loaded(tmp_path, *off).stdout == "[]\n"


def test_without_the_extra_there_is_one_warning_and_no_trace(tmp_path):
    hidden = "import sys\nsys.modules['opentelemetry.sdk'] = None\n"
    done = loaded(tmp_path, "OTEL_TRACES_EXPORTER=otlp", before=hidden)
    assert re.findall(r'"msg":"(no traces[^"]*)"', done.stderr) == [
        "no traces are sent: the extra 'otel' (model-agent[otel]) is not installed"
    ]
