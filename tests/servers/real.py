"""The real model servers on 127.0.0.1, each started from the environment that install.sh made for it.

async with real.mlserver(model_dir) as server:
    server.url, server.pid; await server.restart(); await server.kill(); server.log.read_text()
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import aiohttp
import pytest

HERE = Path(__file__).parent
VERSIONS = {"mlserver": "1.7.1", "kserve": "0.21.0", "triton": "0.7.0"}


def cache() -> Path:
    return Path(os.environ.get("MODELAGENT_TEST_CACHE") or Path.home() / ".cache" / "model-agent")


def environment(name: str) -> Path:
    """Return a server's virtual environment; skips the test where it was not installed."""
    venv = cache() / f"{name}-{VERSIONS[name]}"
    if not (venv / "installed").exists():
        pytest.skip(f"{name} is not installed: run tests/servers/install.sh {name}")
    return venv


class RealServer:
    """One server process with all its children, as one group that ends together."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], port: int, log: Path
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._command = list(command)
        self._env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self, *, wait: bool = True, seconds: float = 90) -> None:
        """Start, and wait until it answers health; raises with the end of its log if it ends before."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - outlives the loop of one test
                self._command,
                env=self._env,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            await self.healthy(seconds=seconds)

    async def healthy(self, *, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/v2/health/live") as response:
                        if response.status == 200:
                            return
                tail = self.log.read_text(errors="replace")[-3000:]
                if not self.running:
                    raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{tail}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name} did not answer within {seconds} s:\n{tail}")
                await asyncio.sleep(0.1)

    async def ended(self, *, seconds: float = 30) -> int:
        """Wait until the process ends by itself and return its exit code."""
        return await asyncio.to_thread(self._process.wait, seconds)

    async def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        await self._end(signal.SIGKILL, 10)

    async def stop(self) -> None:
        """End it as a kubelet does, and harder if that takes more than 10 s."""
        await self._end(signal.SIGTERM, 10)

    async def restart(self, *, wait: bool = True) -> None:
        """Kill it and start it again on the same port."""
        await self.kill()
        await self.start(wait=wait)

    def pause(self) -> None:
        """Let it accept connections and answer nothing, until `resume`."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    async def _end(self, number: signal.Signals, seconds: float) -> None:
        if self._process is None:
            return
        if self.running:
            self._signal_group(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, seconds)
        self._signal_group(signal.SIGKILL)  # children of a dead leader are still in its group
        await asyncio.to_thread(self._process.wait)
        self._process = None

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


@contextlib.asynccontextmanager
async def mlserver(
    model_dir: Path,
    *,
    load_at_startup: bool = False,
    parallel_workers: int = 0,
    env: Mapping[str, str] | None = None,
    start: bool = True,
) -> AsyncIterator[RealServer]:
    venv = environment("mlserver")
    http, grpc, metrics = free_ports(3)
    scratch = model_dir.parent
    settings = {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_HTTP_PORT": str(http),
        "MLSERVER_GRPC_PORT": str(grpc),
        "MLSERVER_METRICS_PORT": str(metrics),
        "MLSERVER_METRICS_DIR": str(scratch / f"metrics-{http}"),
        "MLSERVER_LOAD_MODELS_AT_STARTUP": str(load_at_startup).lower(),
        "MLSERVER_PARALLEL_WORKERS": str(parallel_workers),
        **(env or {}),
    }
    command = [f"{venv}/bin/mlserver", "start", str(model_dir)]
    async with _started(
        RealServer("mlserver", command, settings, http, scratch / f"mlserver-{http}.log"), start
    ) as it:
        yield it


@contextlib.asynccontextmanager
async def kserve_server(
    model_dir: Path, *, loads: bool = True, env: Mapping[str, str] | None = None, start: bool = True
) -> AsyncIterator[RealServer]:
    venv = environment("kserve")
    (http,) = free_ports(1)
    command = [
        f"{venv}/bin/python",
        str(HERE / "kserve_app.py"),
        str(model_dir),
        str(http),
        "load" if loads else "no-load",
    ]
    log = model_dir.parent / f"kserve-{http}.log"
    async with _started(RealServer("kserve", command, env or {}, http, log), start) as server:
        yield server


@contextlib.asynccontextmanager
async def triton(
    model_dir: Path, *, control_mode: str = "explicit", flags: Sequence[str] = (), start: bool = True
) -> AsyncIterator[RealServer]:
    venv = environment("triton")
    site = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    http, grpc, metrics = free_ports(3)
    env = {
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PYTHONPATH": str(site),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [
        f"{site}/pytriton/tritonserver/bin/tritonserver",
        f"--model-repository={model_dir}",
        f"--backend-directory={venv}/triton/backends",
        f"--cache-directory={venv}/triton/caches",
        f"--model-control-mode={control_mode}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--strict-readiness=false",
        *flags,
    ]
    log = model_dir.parent / f"triton-{http}.log"
    async with _started(RealServer("triton", command, env, http, log), start) as server:
        yield server


@contextlib.asynccontextmanager
async def dummy(
    model_dir: Path, dialect: str, *, flags: Sequence[str] = (), start: bool = True
) -> AsyncIterator[RealServer]:
    """The project's own dummy server as a process, to be driven in the same way."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "agent.demo.dummy_command", str(model_dir), "--port", str(port)]
    command += ["--dialect", dialect, *flags]
    env = {"PYTHONPATH": str(HERE.parent.parent)}
    log = model_dir.parent / f"dummy-{port}.log"
    async with _started(RealServer("dummy", command, env, port, log), start) as server:
        yield server


@contextlib.asynccontextmanager
async def _started(server: RealServer, start: bool) -> AsyncIterator[RealServer]:
    try:
        if start:
            await server.start()
        yield server
    finally:
        await server.kill()


EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return ports that are free now; held together, so that no two are the same.

    They are below those that the kernel gives to connections: one of another test would take it first.
    """
    below = int(EPHEMERAL.read_text().split()[0])
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = random.SystemRandom().randrange(below // 2, below)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


# tiny models that answer one number each

_MAKE_JOBLIB = """
import sys
from pathlib import Path
import joblib
from sklearn.dummy import DummyRegressor
for number in range(64):
    model = DummyRegressor(strategy="constant", constant=number).fit([[0.0]], [number])
    joblib.dump(model, Path(sys.argv[1]) / f"{number}.joblib")
"""


def joblib_bytes(server: str, answer: int) -> bytes:
    """Return a scikit-learn model that predicts *answer* (0 to 63), made once by the server's own Python."""
    venv = environment(server)
    made = venv / "made-models"
    if not made.exists():
        fresh = venv / f"made-models.{os.getpid()}"
        fresh.mkdir(exist_ok=True)
        subprocess.run([f"{venv}/bin/python", "-c", _MAKE_JOBLIB, str(fresh)], check=True, timeout=120)
        with contextlib.suppress(OSError):  # another session was faster
            fresh.rename(made)
    return (made / f"{answer}.joblib").read_bytes()


TRITON_CONFIG = """name: "{name}"
backend: "python"
max_batch_size: 0
input [ {{ name: "asked" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "answer" data_type: TYPE_INT64 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU }} ]
"""

TRITON_CODE = """import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep({seconds})
        answer = pb_utils.Tensor("answer", np.array([{answer}], dtype=np.int64))
        return [pb_utils.InferenceResponse([answer]) for _ in requests]
"""


def files_of(server: str, name: str, answer: int) -> dict[str, bytes]:
    """Return the files of a model of that name that answers a number, as they lie in storage."""
    if server == "triton":
        return {
            "config.pbtxt": TRITON_CONFIG.format(name=name).encode(),
            "1/model.py": TRITON_CODE.format(answer=answer, seconds=0).encode(),
        }
    return {"model.joblib": joblib_bytes(server, answer)}


def broken_files_of(server: str, name: str) -> dict[str, bytes]:
    """Return files that this server refuses to load."""
    if server == "triton":
        return files_of(server, name, 0) | {"1/model.py": b"raise ValueError('these are bad bytes')\n"}
    return {"model.joblib": b"these are bad bytes"}


async def ask(url: str, server: str, name: str, *, seconds: float = 30) -> int | None:
    """Infer once and return the number that the model answers, None where it does not answer 200."""
    kind, shape = ("FP32", [1]) if server == "triton" else ("FP64", [1, 1])
    body = {"inputs": [{"name": "asked", "shape": shape, "datatype": kind, "data": [0.0]}]}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=seconds)) as session,
        session.post(f"{url}/v2/models/{name}/infer", json=body) as response,
    ):
        if response.status != 200:
            return None
        document = await response.json(content_type=None)
    return int(document["outputs"][0]["data"][0])
