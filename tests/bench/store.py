"""What the store costs: commits a second, a start with many revisions, a publish. Run by hand:

    python -m tests.bench.store [FOLDER]

Prints milliseconds; asserts nothing. FOLDER decides which disk is measured.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.artifacts.manifest import Manifest
from agent.artifacts.store import Store
from agent.core.disk import DiskPolicy
from agent.core.model import ModelName
from tests.artifacts.shelf import manifest_of, plain, told

REVISIONS = 10_000


def timed(words: str, act: Callable[[], object], count: int = 1) -> None:
    """Run once; print the whole and a piece's share of it."""
    start = time.perf_counter()
    act()
    took = time.perf_counter() - start
    print(f"{words:55} {took * 1000:9.1f} ms  {took / count * 1000:8.3f} ms each  {count / took:9.0f}/s")


def manifests(store: Store, prefix: str, count: int) -> list[Manifest]:
    """One-file revisions whose bytes are adopted but not synced."""
    return [
        manifest_of(store, f"s3://b/{prefix}{n}", {"model": b"%s %d" % (prefix.encode(), n)})
        for n in range(count)
    ]


def main() -> None:
    """Measure in the folder of the first argument, or in the system's own for temporary files."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as top:
        with Store.open(Path(top) / "m", Path(top) / "s") as store:
            measure_commits(store)
            measure_publish(store)
        timed(
            f"start with {len(store.revisions())} revisions",
            lambda: Store.open(Path(top) / "m", Path(top) / "s"),
        )
        print(f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def measure_commits(store: Store) -> None:
    """Commit one-file revisions from one thread and from several."""
    for threads in (1, 4, 16):
        batch = manifests(store, f"t{threads}-", 1000)
        with ThreadPoolExecutor(threads) as pool:
            timed(
                f"commit, {threads} threads",
                lambda pool=pool, batch=batch: list(pool.map(store.commit, batch)),
                len(batch),
            )
    rest = manifests(store, "rest", REVISIONS - 3000)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(store.commit, rest))


def measure_publish(store: Store) -> None:
    """Publish, replace, withdraw, record and collect."""
    made = manifests(store, "rest", 1000)
    names = [ModelName(f"m{n}") for n in range(1000)]
    pairs = list(zip(names, made, strict=True))
    timed("publish one file", lambda: [store.publish(n, m, plain(m)) for n, m in pairs], 1000)
    timed("replace one file", lambda: [store.publish(n, m, plain(m)) for n, m in pairs], 1000)
    timed(
        "replace one file and an overlay",
        lambda: [store.publish(n, m, {**plain(m), "config": b"{}"}) for n, m in pairs],
        1000,
    )
    timed("record what was told", lambda: [store.record(n, told(m.uri, m.revision)) for n, m in pairs], 1000)
    timed("withdraw", lambda: [store.withdraw(n) for n in names], 1000)
    uris = list(store.revisions())
    timed("read the revisions in memory", store.revisions)
    timed("collect, nothing to do", lambda: store.collect(uris, time.time(), DiskPolicy(keep_free_ratio=0)))
    timed("list the directories again", store.rescan)


if __name__ == "__main__":
    main()
