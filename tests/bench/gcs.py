"""Does gs:// bring the same bytes as Google's own library? Against fake-gcs-server, not for speed:

    python -m tests.bench.gcs

Exits with 1 where a file differs, or where bytes of an object that has a CRC32C came unproved.
"""

import asyncio
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agent.artifacts.engine.engine import Engine
from agent.artifacts.fetch import Fetcher
from agent.artifacts.progress import Progress
from agent.artifacts.store import Store
from agent.storage.gs import GsProvider
from tests.fakes.objectstores import fake_gcs

MIB = 1 << 20
SIZES = (0, 1, 65_536, MIB, MIB + 1, 5 * MIB, 40 * MIB + 7)


def _put(client: Any) -> None:
    bucket = client.create_bucket("models")
    for number, size in enumerate(SIZES):
        content = hashlib.shake_256(bytes([number])).digest(min(size, MIB)) * (size // MIB + 1)
        bucket.blob(f"m/deep/{number}.bin").upload_from_string(content[:size])


def with_google(client: Any, dest: Path) -> dict[str, str]:
    """Return the digests of what Google's library downloads."""
    found = {}
    for blob in client.list_blobs("models", prefix="m/"):
        file = dest / blob.name.rpartition("/")[2]
        blob.download_to_filename(str(file), checksum="crc32c")
        found[blob.name.removeprefix("m/")] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


async def with_agent(endpoint: str, dest: Path) -> tuple[dict[str, str], str]:
    """Return the digests of what the agent stores, and what proves them."""
    provider = GsProvider({"STORAGE_EMULATOR_HOST": endpoint})
    with Store.open(dest / "models", dest / "store") as store:
        fetcher = Fetcher(lambda _: provider, store, Engine())
        stored = await fetcher.fetch("gs://models/m", Progress(), relist=True)
        manifest = store.manifest(stored.uri, stored.revision)
        entries = manifest.entries if manifest is not None else ()
        found = {each.path: store.blob_path(each.blob).read_bytes() for each in entries}
        await fetcher.close()
    await provider.close()
    digests = {path: hashlib.sha256(raw).hexdigest() for path, raw in found.items()}
    return digests, manifest.proof if manifest is not None else "none"


def main() -> int:
    from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415 - only this bench needs them
    from google.cloud import storage  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, fake_gcs(Path(folder)) as server:
        client = storage.Client(
            project="bench",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": server.endpoint},
        )
        _put(client)
        (Path(folder) / "google").mkdir()
        began = time.monotonic()
        theirs = with_google(client, Path(folder) / "google")
        middle = time.monotonic()
        ours, proof = asyncio.run(with_agent(server.endpoint, Path(folder)))
        ended = time.monotonic()
        client.close()
    same = ours == theirs and len(ours) == len(SIZES)
    word = "the same bytes as" if same else "OTHER bytes than"
    print(f"gs://: {len(ours)} objects, {word} google-cloud-storage's {len(theirs)}, proof: {proof}")
    print(f"{ended - middle:.2f} s, theirs {middle - began:.2f} s")
    return 0 if same and proof == "provider" else 1


if __name__ == "__main__":
    sys.exit(main())
