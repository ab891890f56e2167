"""MLServer (Seldon), HTTP port 8080.

The law here: a model is what one `model-settings.json` says, and MLServer looks for that file at any
depth and believes the name inside it. So a published folder holds only settings files that bear the
model's own name. A load runs on its event loop: nothing else is answered meanwhile.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from agent.core.errors import AgentError, RetryableError, TerminalError
from agent.core.model import ModelName, ModelSpec
from agent.core.reasons import Reason
from agent.servers.base import ModelState, ServerReading, Traits
from agent.servers.v2 import Patience, V2Server
from agent.servers.wire import Lost, Reply, Unreached, Wire

SETTINGS = "model-settings.json"

_RUNTIMES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sklearn": ("mlserver_sklearn.SKLearnModel", ("model.joblib", "model.pickle", "model.pkl")),
    "xgboost": ("mlserver_xgboost.XGBoostModel", ("model.bst", "model.json", "model.ubj")),
    "lightgbm": ("mlserver_lightgbm.LightGBMModel", ("model.bst", "model.txt")),
    "catboost": ("mlserver_catboost.CatboostModel", ("model.bst", "model.cbm", "model.bin")),
    "mlflow": ("mlserver_mlflow.MLflowRuntime", ()),
    "huggingface": ("mlserver_huggingface.HuggingFaceRuntime", ()),
    "alibi-detect": ("mlserver_alibi_detect.AlibiDetectRuntime", ()),
}
"""Framework to runtime and to the names its model file may have; without names, the folder is the model."""


_SAMPLE = 8
_INDEX_REST = 49.0
"""How long the index is left alone, in multiples of what it took."""


class MLServerServer(V2Server):
    """An MLServer that scans the model dir; start it with MLSERVER_LOAD_MODELS_AT_STARTUP=false."""

    traits = Traits(
        protocol="mlserver", concurrent_loads=1, blocks_while_loading=True, framework_matters=True
    )
    title = "MLServer"

    def __init__(self, wire: Wire, patience: Patience | None = None) -> None:
        super().__init__(wire, patience)
        self._known: dict[str, ModelState] = {}
        self._doubted: set[ModelName] = set()
        self._round: Iterator[str] = iter(())
        self._index_due = 0.0

    def layout(
        self, name: ModelName, spec: ModelSpec, paths: Collection[str], read: Callable[[str], bytes]
    ) -> Mapping[str, str | bytes]:
        """Give the folder a settings file with the right name; see the seam.

        With settings at the top, deeper ones are not published: MLServer would take each for a model of
        its own, and one that bears another model's name for a version of that. With none at the top,
        deeper ones are versions of this model, told apart by `parameters.version`.
        """
        folder: dict[str, str | bytes] = {path: path for path in paths}
        deeper = sorted(path for path in paths if path.endswith(f"/{SETTINGS}"))
        if SETTINGS in folder:
            for path in deeper:
                del folder[path]
            found = [SETTINGS]
        elif deeper:
            found = deeper
            _check_versions({path: _parsed(name, path, read(path)) for path in deeper})
        elif any(path.startswith(f"{SETTINGS}/") for path in paths):
            raise _unserved(name, f"its {SETTINGS} is a folder")
        else:
            return folder | {SETTINGS: _encoded(_made(name, spec.framework, paths))}
        for path in found:
            settings = _parsed(name, path, read(path))
            if settings.get("name") != name:
                folder[path] = _encoded({**settings, "name": name})
        return folder

    async def load(self, name: ModelName) -> None:
        """Load and confirm; see the seam."""
        self._doubted.add(name)
        await super().load(name)
        self._known[name] = ModelState.READY
        self._doubted.discard(name)

    async def unload(self, name: ModelName) -> None:
        """Unload and confirm; see the seam."""
        self._doubted.add(name)
        await super().unload(name)
        self._known.pop(name, None)
        self._doubted.discard(name)

    async def _reading(self) -> ServerReading:
        """Take the index, or ask a few models about themselves while the index would cost too much.

        MLServer makes its index by parsing every settings file in the model dir on its event loop, some
        2 ms each, and serves nothing meanwhile. So the index is asked for only as often as leaves the
        server 98 % of its time. In between each reading asks the names in doubt and the next few that were
        ready; one that is lost means a restart, and the index is taken at once. Its readiness is no sign of
        life, being false as soon as one model is not ready (MLServer issue 2056).
        """
        try:
            if time.monotonic() >= self._index_due or not await self._as_known():
                started = time.monotonic()
                self._known = dict(await self._ask_index())
                ended = time.monotonic()
                self._index_due = ended + (ended - started) * _INDEX_REST
                self._doubted.clear()
                self._round = iter(())
        except (Unreached, Lost):
            self._index_due = 0.0
            raise
        return ServerReading(ready=True, models=dict(self._known))

    async def _as_known(self) -> bool:
        """Ask about the names in doubt and the next of the ready ones; false where one of these was lost."""
        for name in tuple(self._doubted):
            ready = await self._is_ready(name)
            if ready:
                self._known[name] = ModelState.READY
            else:
                self._known.pop(name, None)
            self._doubted.discard(name)
        sample = [name for name in islice(self._round, _SAMPLE) if self._known.get(name) is ModelState.READY]
        if not sample:
            self._round = iter([name for name, state in self._known.items() if state is ModelState.READY])
            sample = list(islice(self._round, _SAMPLE))
        for each in sample:
            if not await self._is_ready(ModelName(each)):
                return False
        return bool(sample) or await self._alive()

    async def _alive(self) -> bool:
        return (await self._wire.get("/v2/health/live", seconds=self._patience.read)).status == 200

    async def _refusal(self, name: ModelName, reply: Reply) -> AgentError:
        """Read a refusal: 404 no settings, 422 no artefact, 400 and 500 what the runtime says."""
        if reply.status == 500 and "Worker process stopped unexpectedly" in reply.words():
            return RetryableError(
                Reason.SERVER_CRASHED,
                f"{self._at} lost its worker process while loading {name}: {reply.words()};"
                " the model may need more memory than there is",
            )
        if reply.status == 503 or not await self._healthy():
            return self._unavailable(f"is not ready ({reply.status}: {reply.words()})")
        return self._rejected(name, reply)


def _made(name: ModelName, framework: str, paths: Collection[str]) -> dict[str, Any]:
    """Make settings for files that came without; MLServer's own default of the URI is the folder."""
    runtime = _RUNTIMES.get(framework.lower())
    if runtime is None:
        raise _unserved(
            name,
            f"no MLServer runtime is known for the framework {framework!r} ({', '.join(sorted(_RUNTIMES))}),"
            " and the files bring no settings",
        )
    implementation, names = runtime
    settings: dict[str, Any] = {"name": name, "implementation": implementation}
    if names:
        settings["parameters"] = {"uri": f"./{_model_file(name, names, paths)}"}
    return settings


def _model_file(name: ModelName, names: tuple[str, ...], paths: Collection[str]) -> str:
    """Return the model's file: one with a well-known name, the only file, the only one of a known kind."""
    for known in names:
        if known in paths:
            return known
    endings = tuple(known.removeprefix("model") for known in names)
    for choice in (sorted(paths), sorted(path for path in paths if path.endswith(endings))):
        if len(choice) == 1:
            return _usable(name, choice[0])
    few = ", ".join(sorted(paths)[:5]) + (", ..." if len(paths) > 5 else "")
    raise _unserved(name, f"none of the files ({few}) is called {' or '.join(names)}")


def _usable(name: ModelName, path: str) -> str:
    """Refuse a file that MLServer would misread, since it takes the path for a URL."""
    if any(character in path for character in "?#;"):
        raise _unserved(name, f"MLServer cannot open {path!r} because of a ?, # or ; in its name: rename it")
    return path


def _check_versions(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse two settings files for one version: which one MLServer would serve is chance."""
    versions: dict[object, str] = {}
    for path, document in settings.items():
        parameters = document.get("parameters")
        version = parameters.get("version") if isinstance(parameters, dict) else None
        other = versions.setdefault(str(version), path)
        if other != path:
            raise TerminalError(
                Reason.LOAD_REJECTED,
                f"{other} and {path} describe the same version of the model; give each its own"
                f" parameters.version, or put one {SETTINGS} at the top",
            )


def _parsed(name: ModelName, path: str, raw: bytes) -> dict[str, Any]:
    try:
        settings = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _unserved(name, f"its {path} is not JSON ({error}), which makes MLServer ignore it") from error
    if not isinstance(settings, dict):
        raise _unserved(name, f"its {path} is no JSON object, which makes MLServer ignore it")
    return settings


def _encoded(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n"


def _unserved(name: ModelName, what: str) -> TerminalError:
    return TerminalError(
        Reason.LOAD_REJECTED,
        f"MLServer cannot serve {name}: {what}. Add {SETTINGS} beside the model's files, with"
        ' {"name", "implementation", "parameters": {"uri"}}',
    )
