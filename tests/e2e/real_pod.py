"""A pod whose model server is a real one; its models answer the number of their version."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.e2e.rig import Rig, make_rig
from tests.fakes.origin import Origin
from tests.servers import real

STARTERS = {"mlserver": real.mlserver, "kserve": real.kserve_server, "triton": real.triton}


class Pod:
    """A rig whose model server is real; models lie in a folder of versions."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name

    def version(self, model: str, answer: int | None, of: object = None) -> str:
        """Lay a version of a model into storage, one that the server refuses for None; return its URI."""
        folder = self.rig.folder / "source" / f"{model}-{answer if of is None else of}"
        made = (
            real.broken_files_of(self.name, model)
            if answer is None
            else real.files_of(self.name, model, answer)
        )
        for path, content in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        return f"file://{folder}"

    def want(self, **answers: int | None) -> None:
        """Swap in a document of models that answer these numbers, and of bad ones for None."""
        self.rig.want(**{model: self.version(model, answer) for model, answer in answers.items()})

    def broken(self, model: str, number: int) -> None:
        """Swap in a document of this model alone, in a version that the server refuses."""
        self.rig.want(**{model: self.version(model, None, f"broken-{number}")})

    async def answers(self, model: str) -> int | None:
        return await real.ask(self.rig.server.url, self.name, model)

    async def answer(self, model: str, number: int, seconds: float = 30) -> None:
        """Wait until a model itself answers that number."""
        async with asyncio.timeout(seconds):
            while await self._answer_or_none(model) != number:
                await asyncio.sleep(0.05)

    async def _answer_or_none(self, model: str) -> int | None:
        try:
            return await self.answers(model)
        except OSError:
            return None


@asynccontextmanager
async def pod(
    folder: Path, name: str, *, beside: bool, begin: bool = True, **flags: object
) -> AsyncIterator[Pod]:
    model_dir = folder / "volume" / "models"
    model_dir.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin().serving())
        server = await stack.enter_async_context(STARTERS[name](model_dir, start=False))
        given = {"allowed-roots": folder / "source", **flags}
        rig = make_rig(folder, origin, server, name, beside=beside, flags=given)
        stack.callback(rig.agent.end)
        rig.want()
        if begin:
            rig.agent.launch()
            await server.start()
            await rig.agent.up()
        yield Pod(rig, name)
