"""NVIDIA Triton Inference Server with --model-control-mode=explicit, HTTP port 8000.

The law here: the index is believed, and only together with the answer. A refused load leaves the old
version READY, so READY proves nothing after a refusal; an unload answers before anything is freed, so
only the index tells when the memory is back.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec
from agent.core.reasons import Reason
from agent.servers.base import ModelState, ServerReading, Traits
from agent.servers.pbtxt import has_platform, renamed, says_file_name
from agent.servers.v2 import Patience, V2Server
from agent.servers.wire import Reply, Wire

CONFIG = "config.pbtxt"

_RENAMED = {
    ".onnx": "model.onnx",
    ".pt": "model.pt",
    ".pth": "model.pt",
    ".plan": "model.plan",
    ".engine": "model.plan",
    ".graphdef": "model.graphdef",
}
"""Endings that name a backend, and the file name that backend looks for."""


class TritonServer(V2Server):
    """A Triton server in explicit mode; it loads several models at once and answers meanwhile."""

    traits = Traits(
        protocol="triton", concurrent_loads=4, blocks_while_loading=False, framework_matters=False
    )
    title = "Triton"

    def __init__(self, wire: Wire, patience: Patience | None = None) -> None:
        """Keep no connection.

        Triton binds each to one of its HTTP threads, and a load occupies its thread to the end: whatever
        comes on a connection of the same thread waits as long (seen with 2.51: 3 s, the whole load).
        """
        super().__init__(wire.unkept(), patience)

    def layout(
        self,
        name: ModelName,
        spec: ModelSpec,  # noqa: ARG002 - the files tell the backend
        paths: Collection[str],
        read: Callable[[str], bytes],
    ) -> Mapping[str, str | bytes]:
        """Give the folder a version folder and its config the right name; see the seam.

        Files without a version folder go to version 1; with a config, only what is no label file or
        other text does. One lone file of a known kind gets the name that its backend looks for.
        """
        if not paths:
            raise TerminalError(Reason.LOAD_REJECTED, f"Triton cannot serve {name}: there is no file")
        config = read(CONFIG) if CONFIG in paths else b""
        folder: dict[str, str | bytes]
        if any(_version(path) for path in paths):
            folder = {path: path for path in paths}
        else:
            folder = dict(_as_version_one(paths, rename=not says_file_name(config)))
        if CONFIG in paths:
            fresh = renamed(config, name)
            if fresh != config:
                folder[CONFIG] = fresh
            if has_platform(config, "ensemble") and not any(_version(path) for path in folder):
                folder["1/.keep"] = b""  # an ensemble has no file, and still needs its version folder
        return folder

    async def _reading(self) -> ServerReading:
        """Take the index alone: readiness is false under --strict-readiness while any model fails."""
        return ServerReading(ready=True, models=await self._ask_index())

    async def _alive(self) -> bool:
        return (await self._wire.get("/v2/health/live", seconds=self._patience.read)).status == 200

    async def _gone(self, name: ModelName) -> bool:
        """Ask the index: readiness is false as soon as the unload begins."""
        states = await self._ask_index()
        return states.get(name, ModelState.UNAVAILABLE) is ModelState.UNAVAILABLE

    async def _refusal(self, name: ModelName, reply: Reply) -> AgentError:
        """Read a refusal: 400 and 500 name a bad model, 503 the control mode or a server on its way out."""
        words = reply.words()
        if "memory limit" in words:
            return RetryableError(
                Reason.RESOURCE_EXHAUSTED, f"{self._at} has no room for {name} ({reply.status}): {words}"
            )
        if reply.status == 503 and "not allowed" in words:
            return self._not_supported(reply, "start Triton with --model-control-mode=explicit")
        if reply.status == 503 or not await self._healthy():
            return self._unavailable(f"is not ready ({reply.status}: {words})")
        return self._rejected(name, reply)


def _version(path: str) -> bool:
    """Tell whether a path lies in a version folder."""
    top, _, rest = path.partition("/")
    return bool(rest) and top.isascii() and top.isdigit()


def _as_version_one(paths: Collection[str], *, rename: bool) -> Mapping[str, str]:
    """Put bare files under `1/`; TensorFlow's saved model goes into the folder that is its model file."""
    kept = {path for path in paths if CONFIG in paths and _stays(path)}
    files = sorted(set(paths) - kept)
    if "saved_model.pb" in files:
        moved = {f"1/model.savedmodel/{path}": path for path in files}
    else:
        moved = {f"1/{path}": path for path in files}
        known = [path for path in files if PurePosixPath(path).suffix in _RENAMED and "/" not in path]
        target = _RENAMED[PurePosixPath(known[0]).suffix] if known else ""
        if rename and len(known) == 1 and not any(path.startswith(f"{target}/") for path in files):
            del moved[f"1/{known[0]}"]
            moved[f"1/{target}"] = known[0]
    return {path: path for path in kept} | moved


def _stays(path: str) -> bool:
    """Tell what belongs beside config.pbtxt and not into a version: itself, its variants, label files."""
    return path == CONFIG or path.startswith("configs/") or path.endswith((".txt", ".md"))
