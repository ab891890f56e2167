"""`python -m tests.fuzz.run --seconds N [TARGET …]`: each target so long, from the repository's corpus.

Prints executions and corpus size; new inputs stay below build/fuzz, a finding is written there and ends it
with 1. With --keep the repository's corpus takes in what adds coverage, in the fewest bytes.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import CORPUS, TARGETS, corpus, seeds

BUILD = Path("build/fuzz")
LARGEST = {"document": 4096, "quantity": 300, "uri": 300, "redactor": 1000, "archive": 8192, "review": 16384}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of {', '.join(TARGETS)}")
    given = parser.parse_args()
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {sorted(unknown)}")
    worst = 0
    for name in given.targets or TARGETS:
        worst = max(worst, fuzz(name, given.seconds))
        if given.keep:
            merge(name)
    return worst


def drive(name: str, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz.drive", name, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def fuzz(name: str, seconds: int) -> int:
    """Fuzz one target and print what came of it; 1 for a finding."""
    new = BUILD / name
    new.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (new / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", f"-max_len={LARGEST[name]}", "-timeout=10", "-rss_limit_mb=1024"]
    done = drive(name, *flags, "-print_final_stats=1", f"-artifact_prefix={BUILD}/", new, CORPUS / name)
    executions = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    print(
        f"{name:<9} {executions[1] if executions else '?':>9} executions, coverage "
        f"{coverage[-1] if coverage else '?'}, corpus {len(corpus(name))} in the repository, "
        f"{len(list(new.iterdir()))} found",
        flush=True,
    )
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-1500:], sep="\n", file=sys.stderr)
    return int(done.returncode != 0)


def merge(name: str) -> None:
    """Take what adds coverage into the repository's corpus."""
    drive(name, "-merge=1", f"-max_len={LARGEST[name]}", CORPUS / name, BUILD / name)


if __name__ == "__main__":
    sys.exit(main())
