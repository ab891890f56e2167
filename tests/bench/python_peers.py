"""Python libraries as peers of the download benchmark; run by the benchmark in an environment of its own.

python_peers.py obstore|boto3 BASE-URL CA CASE DEST
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PART = 8 << 20


async def with_obstore(base: str, ca: str, case: str, dest: Path) -> None:
    import obstore  # noqa: PLC0415 - only one of the peers is there
    from obstore.store import S3Store  # noqa: PLC0415

    store = S3Store(
        "bench", endpoint=f"{base}/bench", region="us-east-1", skip_signature=True,
        virtual_hosted_style_request=True, client_options={"allow_http": True},
    )  # fmt: skip
    listed = [entry for batch in obstore.list(store, prefix=f"{case}") for entry in batch]
    gate = asyncio.Semaphore(8)

    async def part(path: str, file, start: int, stop: int) -> None:
        async with gate:
            data = await obstore.get_range_async(store, path, start=start, end=stop)
            await asyncio.to_thread(write, file, data, start)

    def write(file, data, at: int) -> None:
        import os  # noqa: PLC0415

        os.pwrite(file.fileno(), data, at)

    async def fetch(entry) -> None:
        with (dest / Path(entry["path"]).name).open("wb") as file:
            size = entry["size"]
            await asyncio.gather(
                *(part(entry["path"], file, at, min(at + PART, size)) for at in range(0, size, PART))
            )

    await asyncio.gather(*(fetch(entry) for entry in listed))


def with_boto3(base: str, ca: str, case: str, dest: Path) -> None:
    import boto3  # noqa: PLC0415
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    config = Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}, max_pool_connections=16)
    client = boto3.client("s3", endpoint_url=base, config=config, region_name="us-east-1")
    listed = client.list_objects_v2(Bucket="bench", Prefix=f"{case}/")["Contents"]
    with ThreadPoolExecutor(8) as pool:
        names = [each["Key"] for each in listed]
        list(pool.map(lambda key: client.download_file("bench", key, str(dest / Path(key).name)), names))


if __name__ == "__main__":
    program, base, ca, case, dest = sys.argv[1:]
    if program == "boto3":
        with_boto3(base, ca, case, Path(dest))
    else:
        asyncio.run(with_obstore(base, ca, case, Path(dest)))
