"""A process that is there to be killed: fetches one URI as the agent would, by its own wiring, and ends.

python -m tests.storage.fetch_child URI FOLDER
"""

import asyncio
import os
import sys
from pathlib import Path

from agent.app import Providers
from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store


async def fetch(uri: str, folder: Path) -> None:
    providers = Providers(os.environ, ())
    with Store.open(folder / "models", folder / "store") as store:
        fetcher = Fetcher(providers, store, Engine())
        await fetcher.fetch(uri, Progress(), relist=True)
        await fetcher.close()
    await providers.close()


if __name__ == "__main__":
    asyncio.run(fetch(sys.argv[1], Path(sys.argv[2])))
