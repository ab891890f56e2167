"""What KServe's injector passes, replayed with real processes: probes on 9081 and on the unix socket.

The words and variables are KServe's own (contract §1.4 to §1.6); only ports and folders are the test's.
"""

import asyncio
import contextlib
import signal
from dataclasses import dataclass

import pytest

from tests.fakes.grpcserver import NOT_SERVING, SERVING, grpc_server
from tests.servers import real
from tests.test_entrypoint import KNATIVE, PULLER, started

GRPC = '{"grpc":{"port":8080,"service":""},"periodSeconds":10,"successThreshold":1}'


@dataclass(frozen=True)
class Row:
    """What one kind of InferenceService makes the injector pass. `kind` is what the component port speaks."""

    environ: dict
    kind: str = "kserve"


ROWS = {
    "serverless": Row(KNATIVE),
    "serverless with a grpc probe": Row({**KNATIVE, "SERVING_READINESS_PROBE": GRPC}, "grpc"),
    "raw with a transformer": Row(
        {
            "SERVING_READINESS_PROBE": '{"httpGet":{"path":"/v2/health/ready","port":8080,"scheme":"HTTP"},'
            '"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}'
        }
    ),
    "raw, exec probe: no variable": Row({}),
    "raw, grpc probe: no variable": Row({}, "grpc"),
}


@contextlib.asynccontextmanager
async def component(kind, folder):
    """The model server; yields its port and a way to start it, or None where it is up."""
    if kind == "grpc":
        async with grpc_server() as (_, port, calls):
            yield port, calls
    else:
        async with real.dummy(folder, "kserve") as server:
            yield int(server.url.rpartition(":")[2]), None


async def by_socket(port):
    """Ask the abstract unix socket, as Knative's own parts of a pod would."""
    reader, writer = await asyncio.open_unix_connection(f"\0/agent-test/{port}")
    writer.write(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: kube-probe/1.33\r\n"
        b"K-Network-Probe: queue\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_a_pod_of_kserves_is_ready_serves_and_ends(tmp_path, row):
    for folder in ("configs", "models"):
        (tmp_path / folder).mkdir()
    (tmp_path / "configs" / "models.json").write_text("[]")
    async with component(row.kind, tmp_path / "models") as (port, calls):
        here = {"/mnt/configs": str(tmp_path / "configs"), "/mnt/models": str(tmp_path / "models")}
        words = [here.get(word, word) for word in (*PULLER, "--component-port", str(port))]
        environ = {name: value.replace("8080", str(port)) for name, value in row.environ.items()}
        async with started(tmp_path, words, **environ) as agent:
            await agent.until((200, "queue"), agent.probed)
            assert await by_socket(agent.port) == (200, "queue")
            if calls is None:
                assert (await agent.ask("/v2/health/live"))[0] == 200
            elif "grpc" in environ.get("SERVING_READINESS_PROBE", ""):
                calls.health = NOT_SERVING
                await agent.until((503, "not ready\n"), agent.probed)
                calls.health = SERVING
            agent.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(agent.process.wait, 10) == 0
