"""The second pull of a 1 GiB model on a node with a shared cache: `python -m tests.bench.pull_cache`.

Prints what `model-agent pull` says of each: without the cache, into it, from it (links, symlinks), and how
long the whole process took. All is on one file system, as the cache and a volume of one PVC are.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZE = 1 << 30


def pull(source, target, *more):
    began = time.monotonic()
    words = [sys.executable, "-m", "agent", "pull", f"file://{source}", str(target), *more]
    done = subprocess.run(words, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True)
    return time.monotonic() - began, done.stderr.splitlines()[-1]


def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as name:
        folder = Path(name)
        (folder / "source").mkdir()
        with (folder / "source" / "model.bin").open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(os.urandom(1 << 20))
        cache = ["--cache-dir", str(folder / "cache")]
        runs = {"no cache": [], "into the cache": cache, "from the cache": cache, "again": cache,
                "by symlinks": [*cache, "--cache-symlinks"]}  # fmt: skip
        for number, (what, more) in enumerate(runs.items()):
            seconds, said = pull(folder / "source", folder / f"pod-{number}", *more)
            print(
                f"{what:<16} process {seconds:6.2f} s   {said.partition(': ')[2].partition(', revision')[0]}"
            )


if __name__ == "__main__":
    main()
