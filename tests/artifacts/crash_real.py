"""What is killed in the midst of real work: the engine's fetch, an unpacking, a copy, a refused update.

The process that is killed is this file: `crash_real.py ROOT SCENARIO MODEL_DIR STORE_DIR URL`, under strace
with all its threads. Everything before the mark is not counted.
"""

import asyncio
import gzip
import os
import random
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import cast

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from agent.aio.wakeup import Wakeup  # noqa: E402 - run as a file, it has to find the agent first
from agent.artifacts.engine.engine import Engine  # noqa: E402
from agent.artifacts.engine.settings import EngineSettings  # noqa: E402
from agent.artifacts.fetch import Fetcher  # noqa: E402
from agent.artifacts.progress import Progress  # noqa: E402
from agent.artifacts.store import Store  # noqa: E402
from agent.core.actions import Load  # noqa: E402
from agent.core.errors import AgentError, TerminalError  # noqa: E402
from agent.core.model import ModelName, ModelSpec, StoredRevision  # noqa: E402
from agent.core.reasons import Reason  # noqa: E402
from agent.reconcile.pod import Pod  # noqa: E402
from agent.reconcile.server_link import ServerLink  # noqa: E402
from agent.servers.base import ModelState, ServerReading, Traits  # noqa: E402
from agent.storage.base import StorageProvider  # noqa: E402
from agent.storage.file import FileProvider  # noqa: E402
from agent.storage.http import HttpProvider  # noqa: E402
from tests.artifacts.shelf import BOOT, M, stored  # noqa: E402
from tests.artifacts.unpack.making import member, tar  # noqa: E402

MARK = b"from here on"
LARGE = random.Random(5).randbytes(2_600_000)  # noqa: S311 - by ranges, with a journal
MEMBERS = {"a": LARGE[:200_000], "d/b": b"b", "empty": b""}
ARCHIVE = gzip.compress(tar(*(member(name.encode(), content) for name, content in MEMBERS.items())), mtime=0)
ONE = EngineSettings(max_connections=2, lanes=1)
URI = "s3://bucket/model"
OLD, NEW = {"model": b"old"}, {"model": b"new", "more": b"new too"}


@dataclass(frozen=True)
class Real:
    """One scenario: the object or folder at the URL, the files that come of it; without any, a rollback."""

    source: dict[str, bytes]
    files: dict[str, bytes]
    copied: bool = False
    weakness: str = ""


SCENARIOS = {
    "ranged": Real({"model.bin": LARGE}, {"model.bin": LARGE}),
    "archive": Real({"model.tar.gz": ARCHIVE}, MEMBERS),
    "copy": Real({"model.bin": LARGE, "d/small": b"s"}, {"model.bin": LARGE, "d/small": b"s"}, copied=True),
    "copy-by-sendfile": Real(
        {"model.bin": LARGE}, {"model.bin": LARGE}, copied=True, weakness="copy_file_range:error=EXDEV"
    ),
    "rollback": Real({}, {}),
}


class Server:
    """Takes every load, or refuses every one."""

    traits = Traits("scripted", concurrent_loads=1, blocks_while_loading=False, framework_matters=False)

    def __init__(self, *, refuses: bool = False) -> None:
        self._refuses, self._holds = refuses, {M: ModelState.READY}

    async def read(self) -> ServerReading:
        return ServerReading(ready=True, models=self._holds)

    def doubt(self, names: Collection[ModelName]) -> None:
        """It lists all that it holds."""

    async def load(self, name: ModelName) -> None:
        if self._refuses:
            raise TerminalError(Reason.LOAD_REJECTED, "no")

    async def unload(self, name: ModelName) -> None:
        return

    def layout(
        self, name: ModelName, spec: ModelSpec, paths: Collection[str], read: object
    ) -> dict[str, str | bytes]:
        return {path: path for path in paths}

    async def close(self) -> None:
        return


def pod_of(store: Store, *, refuses: bool = False) -> Pod:
    return Pod(store, cast("Fetcher", None), ServerLink(Server(refuses=refuses), Wakeup().ring), lambda: 0.0)


def a_load(store: Store, files: dict[str, bytes], at: float) -> Load:
    manifest = stored(store, URI, files, at)
    return Load(M, ModelSpec(URI, "sklearn", 1), manifest.revision, URI)


async def perform(store: Store, load: Load, *, refused: bool = False) -> None:
    """Carry the load out; a refusal ends with the old folder in its place."""
    try:
        await pod_of(store, refuses=refused).perform(load)
    except AgentError:
        if not refused:
            raise


async def fetch(store: Store, url: str) -> StoredRevision:
    provider: StorageProvider = HttpProvider({}) if url.startswith("http") else FileProvider([Path("/")])
    fetcher = Fetcher(lambda _: provider, store, Engine(ONE))
    try:
        return await fetcher.fetch(url, Progress(), relist=False)
    finally:
        await fetcher.close()
        await provider.close()


def main(name: str, model_dir: str, store_dir: str, url: str) -> None:
    store = Store.open(Path(model_dir), Path(store_dir), boot_id=BOOT)
    nowhere = os.open("/dev/null", os.O_WRONLY)
    load = a_load(store, NEW, 2.0) if name == "rollback" else None
    os.write(nowhere, MARK)
    try:
        asyncio.run(fetch(store, url) if load is None else perform(store, load, refused=True))
    except AgentError as error:
        print(error, flush=True)  # the unpacking child may be the one that was killed
        os._exit(3)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[2:])
