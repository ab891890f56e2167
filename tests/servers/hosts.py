"""The hosts that the server contract runs on: real servers, and the dummy in each one's place."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.contracts.servers import Host
from tests.servers import real

LAUNCHERS = {"kserve": real.kserve_server, "mlserver": real.mlserver, "triton": real.triton}


@contextlib.asynccontextmanager
async def real_host(dialect: str, base: Path) -> AsyncIterator[Host]:
    model_dir = base / "models"
    model_dir.mkdir()
    async with LAUNCHERS[dialect](model_dir) as process:
        yield Host(
            process,
            dialect,
            model_dir,
            files=lambda name, answer: real.files_of(dialect, name, answer),
            broken=lambda name: real.broken_files_of(dialect, name),
            ask=lambda name: real.ask(process.url, dialect, name),
        )


@contextlib.asynccontextmanager
async def dummy_host(dialect: str, base: Path) -> AsyncIterator[Host]:
    model_dir = base / "models"
    model_dir.mkdir()

    async def ask(name: str) -> int | None:
        url = f"{process.url}/v2/models/{name}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            document = await response.json()
        files = document.get("files", {})
        return next(
            (int(item["head"]) for path, item in files.items() if path.endswith("model.joblib")), None
        )

    flags = ["--load-all"] if dialect == "kserve" else []
    async with real.dummy(model_dir, dialect, flags=flags) as process:
        yield Host(
            process,
            dialect,
            model_dir,
            files=lambda _name, answer: {"model.joblib": str(answer).encode()},
            broken=lambda _name: {"model.joblib": b"broken"},
            ask=ask,
        )
