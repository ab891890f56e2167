"""The image's entry point with exactly what KServe's injector passes (contract §1.4 to §1.7)."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from agent.entrypoint import Agent, Command, decide
from agent.usage import UsageError
from agent.web.proxy_child import ProxyChild, ProxyFailedError
from tests.servers import real

PULLER = ["--enable-puller", "--config-dir", "/mnt/configs", "--model-dir", "/mnt/models"]
PORT = ["--component-port", "8080"]
BATCHER = ["--enable-batcher", "--max-batchsize", "32", "--max-latency", "500"]
LOGGER = [
    "--log-url", "http://sink", "--source-uri", "isvc", "--log-mode", "all", "--inference-service", "isvc",
    "--namespace", "ns", "--endpoint", "predictor", "--component", "predictor",
    "--logger-ca-cert-file", "service-ca.crt", "--logger-tls-skip-verify", "false",
]  # fmt: skip
TCP = (
    '{"tcpSocket":{"port":8080},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,'
    '"failureThreshold":3}'
)
KNATIVE = {
    "CONTAINER_CONCURRENCY": "0", "QUEUE_SERVING_PORT": "8012", "USER_PORT": "8080",
    "REVISION_TIMEOUT_SECONDS": "300", "ENABLE_HTTP2_AUTO_DETECTION": "false",
    "ENABLE_MULTI_CONTAINER_PROBES": "false", "SERVING_LOGGING_CONFIG": "", "SERVING_LOGGING_LEVEL": "",
    "SERVING_REQUEST_LOG_TEMPLATE": "{}", "SERVING_ENABLE_REQUEST_LOG": "false",
    "SERVING_ENABLE_PROBE_REQUEST_LOG": "false",
    "SERVING_READINESS_PROBE": '{"tcpSocket":{"port":8080,"host":"127.0.0.1"},"successThreshold":1}',
}  # fmt: skip


def agent(words, **environ):
    decided = decide(words, environ)
    assert isinstance(decided, Agent)
    return decided


@pytest.mark.parametrize(
    ("words", "environ", "component", "notes"),
    [
        pytest.param([*PULLER, *PORT], KNATIVE, 8080, 0, id="serverless"),
        pytest.param([*PULLER, *PORT], {"SERVING_READINESS_PROBE": TCP}, 8080, 0, id="raw"),
        pytest.param(
            [*PULLER, "--component-port", "9000"],
            {"SERVING_READINESS_PROBE": '{"httpGet":{"path":"/ready","port":9000,"scheme":"HTTP"}}'},
            9000, 0, id="raw with a transformer",
        ),
        pytest.param([*PULLER, *PORT], {}, 8080, 1, id="raw, exec or grpc probe: no variable"),
    ],
)  # fmt: skip
def test_what_kserves_injector_passes_runs_the_puller_and_the_proxy(words, environ, component, notes):
    decided = agent(words, **environ)
    settings = decided.settings
    assert settings.enable_puller
    assert (settings.port, settings.component_port, settings.status_host) == (9081, component, "0.0.0.0")
    assert (settings.config_dir, settings.model_dir) == (Path("/mnt/configs"), Path("/mnt/models"))
    assert len(decided.notes) == notes


@pytest.mark.parametrize(
    ("words", "said"), [(BATCHER, "batch"), (LOGGER, "log"), (BATCHER + LOGGER, "log requests")]
)
def test_what_this_image_does_not_do_is_refused_in_one_line_or_ignored(words, said):
    words = [*words, "--component-port", "8080"]
    with pytest.raises(UsageError, match=said) as caught:
        decide(words, {"SERVING_READINESS_PROBE": ""})
    assert "\n" not in str(caught.value)
    decided = agent(words, SERVING_READINESS_PROBE="", MODELAGENT_ON_UNSUPPORTED="ignore")
    assert not decided.settings.enable_puller
    assert decided.notes
    decide([*PULLER, "--enable-batcher=false", "--log-url", ""], {"SERVING_READINESS_PROBE": ""})


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (PULLER, {"SERVING_READINESS_PROBE": "{"}, "SERVING_READINESS_PROBE"),
        (["--enable-pulller"], {}, "--enable-pulller"),
        (["--component-port", "x"], {}, "--component-port"),
    ],
)
def test_what_cannot_be_run_is_named(words, environ, said):
    with pytest.raises(UsageError, match=said):
        decide(words, environ)


@pytest.mark.parametrize("words", [["run"], ["pull", "a", "b"], ["--version"], ["nonsense"]])
def test_a_command_is_run_by_its_name(words):
    assert decide(words, {}) == Command(tuple(words))


@pytest.mark.parametrize(
    "flag", ["--log-url=http://sink", "--server-url=http://127.0.0.1:1", "--source-uri=/here"]
)
def test_a_flag_with_a_uri_is_a_flag_and_nothing_to_pull(flag):
    assert isinstance(
        decide([flag], {"SERVING_READINESS_PROBE": "", "MODELAGENT_ON_UNSUPPORTED": "ignore"}), Agent
    )


@pytest.mark.parametrize("source", ["s3://bucket/m", "/mnt/pvc/m", "https://host/m.zip"])
def test_what_a_storage_initializer_gets_is_pulled(source):
    assert decide([source, "/mnt/models"], {}) == Command(("pull", source, "/mnt/models"))


class Process:
    """The entry point as a process, as the image starts it."""

    def __init__(self, folder, words, environ):
        self.port, self.status_port = real.free_ports(2)
        self.log = folder / "agent.log"
        env = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent.parent),
            "MODELAGENT_PORT": str(self.port), "MODELAGENT_STATUS_PORT": str(self.status_port),
            "MODELAGENT_STATUS_HOST": "127.0.0.1", "MODELAGENT_DRAIN_QUIET": "0.3s",
            "MODELAGENT_AGENT_SOCKET": f"@/agent-test/{self.port}", **environ,
        }  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent.entrypoint", *words], env=env, stdout=log, stderr=log
            )

    async def ask(self, path="/", **headers):
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session,
            session.get(
                path, headers={name.replace("_", "-"): value for name, value in headers.items()}
            ) as answer,
        ):
            return answer.status, await answer.text()

    async def probed(self):
        return await self.ask("/", User_Agent="kube-probe/1.31", K_Network_Probe="queue")

    async def until(self, wanted, ask, seconds=15):
        end, found = time.monotonic() + seconds, None
        while found != wanted:
            assert time.monotonic() < end, f"{found}\n{self.log.read_text()}"
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(aiohttp.ClientError):
                found = await ask()
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def started(folder, words, **environ):
    process = Process(folder, words, environ)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


@pytest.fixture
def mounts(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "models").mkdir()
    return [
        "--enable-puller",
        "--config-dir",
        str(tmp_path / "configs"),
        "--model-dir",
        str(tmp_path / "models"),
    ]


async def test_it_listens_at_once_is_ready_after_the_first_set_and_drains(tmp_path, mounts):
    """Against a model server that lists each folder: started, asked through 9081, ended."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.joblib").write_bytes(b"model")
    entry = {
        "modelName": "m",
        "modelSpec": {"storageUri": f"file://{source}", "framework": "sklearn", "memory": "1Mi"},
    }
    async with real.dummy(tmp_path / "models", "kserve", start=False) as server:
        port = server.url.rpartition(":")[2]
        words = [*mounts, "--component-port", port]
        probe = json.dumps({"tcpSocket": {"port": int(port)}, "periodSeconds": 10})
        async with started(
            tmp_path, words, SERVING_READINESS_PROBE=probe, MODELAGENT_ALLOWED_ROOTS=str(tmp_path),
            MODELAGENT_SERVER_URL=server.url,
        ) as agent:  # fmt: skip
            await agent.until((503, "not ready\n"), agent.probed)
            assert (await agent.ask("/v2/models/m"))[0] == 502
            (tmp_path / "configs" / "models.json").write_text(json.dumps([entry]))
            await server.start()
            await agent.until((200, "queue"), agent.probed)
            assert (await agent.ask("/v2/models/m"))[0] == 200
            agent.process.send_signal(signal.SIGTERM)
            await agent.until((503, "shutting down\n"), agent.probed)
            assert (await agent.ask("/v2/models/m"))[0] == 200
            assert await asyncio.to_thread(agent.process.wait, 10) == 0


async def test_without_the_puller_it_is_the_proxy_alone(tmp_path):
    async with real.dummy(tmp_path, "kserve") as server:
        words = [*BATCHER, "--component-port", server.url.rpartition(":")[2]]
        async with started(
            tmp_path, words, SERVING_READINESS_PROBE="", MODELAGENT_ON_UNSUPPORTED="ignore"
        ) as agent:
            await agent.until((200, "queue"), agent.probed)
            assert (await agent.ask("/v2/health/live"))[0] == 200
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", agent.status_port), 1).close()
            agent.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(agent.process.wait, 10) == 0


@pytest.mark.parametrize("puller", [True, False], ids=["puller", "proxy alone"])
async def test_a_second_signal_waits_for_nothing(tmp_path, mounts, puller):
    words = mounts if puller else []
    async with started(tmp_path, words, SERVING_READINESS_PROBE="", MODELAGENT_DRAIN_QUIET="600s") as agent:
        await agent.until((200, "queue") if not puller else (503, "not ready\n"), agent.probed)
        agent.process.send_signal(signal.SIGTERM)
        await agent.until((503, "shutting down\n"), agent.probed)
        agent.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(agent.process.wait, 10) == 1


async def test_a_proxy_that_dies_is_started_again(tmp_path, mounts):
    async with started(tmp_path, mounts, SERVING_READINESS_PROBE="") as agent:
        await agent.until((503, "not ready\n"), agent.probed)
        (child,) = psutil.Process(agent.process.pid).children()
        child.kill()
        await agent.until((503, "not ready\n"), agent.probed)
        assert agent.process.poll() is None


def test_a_fault_ends_with_64_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "agent.entrypoint", *LOGGER], env={"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False, timeout=30, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (64, "", 1)


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path, mounts):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent = Process(
            tmp_path, mounts, {"SERVING_READINESS_PROBE": "", "MODELAGENT_STATUS_PORT": str(port)}
        )
        assert agent.process.wait(15) == 1
    said = agent.log.read_text()
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "cannot start" in line]
    assert str(port) in line


async def test_a_proxy_that_cannot_be_started_is_tried_ever_less_often_and_given_up(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--port", str(taken.getsockname()[1]), "--component-port", "1", "--quiet", "0"]
        child = ProxyChild(words, {}, lambda: True, most_failures=3, again_seconds=0.01)
        with pytest.raises(ProxyFailedError, match="3 times"):
            await child.run()
    assert [record.seconds for record in caplog.records] == [0.01, 0.02]
