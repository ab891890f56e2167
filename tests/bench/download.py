"""How fast bytes come, beside the native tools, in one run:

    python -m tests.bench.download [--scale 0.25] [--rounds 5] [--cases ABC] [--schemes http,https,s3]

Rounds are interleaved, the origin's files are in the page cache, and nobody syncs but `agent fetch`, which
is the whole way into the store. Wall seconds include the start of the process. Prints medians with min and
max, CPU seconds and peak RSS of the client, and the ratios of the issue; asserts nothing.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.origin import Case, Origin, cases, origin

TOOLS = Path(os.environ.get("MODELAGENT_TEST_CACHE", Path.home() / ".cache" / "model-agent")) / "bench"
ROOT = Path(__file__).parents[2]
Command = Callable[[Origin, str, Case, Path], Sequence[str]]


@dataclass(slots=True)
class Figures:
    """What one client needed, a value a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    failures: int = 0


def ours(mode: str) -> Command:
    def command(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
        files = origin.home / "files" / "bench" / case.name
        base = origin.url("http" if scheme == "s3" else scheme)
        return (sys.executable, "-m", "tests.bench.client", mode, base, str(origin.ca), str(dest), str(files))

    return command


def copy(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
    return ("cp", "-r", str(origin.home / "files" / "bench" / case.name), str(dest))


def curl(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
    config = dest / "curl.cfg"
    lines = [
        f'url = "{origin.url(scheme)}/bench/{path}"\noutput = "{dest}/{Path(path).name}"'
        for path in case.paths()
    ]
    config.write_text("\n".join(lines))
    parallel = ("--parallel", "--parallel-max", "16") if case.files > 1 else ()
    return ("curl", "-s", "--fail", "--cacert", str(origin.ca), *parallel, "-K", str(config))


def aria2(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
    urls = dest / "urls"
    urls.write_text("\n".join(f"{origin.url(scheme)}/bench/{path}" for path in case.paths()))
    return (
        "aria2c", "-q", "-x8", "-s8", "-j16", "--file-allocation=falloc", f"--ca-certificate={origin.ca}",
        "-d", str(dest), "-i", str(urls),
    )  # fmt: skip


def _binary(name: str) -> str:
    """The program itself, not the Python script that a package may put before it."""
    found = [
        *TOOLS.glob(f"lib/python*/site-packages/*/bin/{name}"),
        *TOOLS.glob(f"lib/python*/site-packages/*/{name}"),
    ]
    return str(next((path for path in found if path.is_file()), TOOLS / "bin" / name))


def rclone(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
    common = (
        "--config",
        "/dev/null",
        "--transfers",
        "8",
        "--multi-thread-streams",
        "8",
        "--ca-cert",
        str(origin.ca),
    )
    tool = _binary("rclone")
    if scheme == "s3":
        remote = f":s3,provider=Other,endpoint='{origin.url('http')}',force_path_style=true:bench/{case.name}"
        return (tool, "copy", remote, str(dest), *common)
    if case.files > 100:
        common = (*common, "--checkers", "16", "--http-no-head")
    return (tool, "copy", f":http,url='{origin.url(scheme)}/bench/{case.name}/':", str(dest), *common)


def s5cmd(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
    base = origin.url("https" if scheme == "https" else "http")
    insecure = ("--no-verify-ssl",) if scheme == "https" else ()
    return (
        _binary("s5cmd"), "--no-sign-request", *insecure, "--endpoint-url", base,
        "cp", "--concurrency", "8", f"s3://bench/{case.name}/*", f"{dest}/",
    )  # fmt: skip


def python(program: str) -> Command:
    def command(origin: Origin, scheme: str, case: Case, dest: Path) -> Sequence[str]:
        base = origin.url("https" if scheme == "https" else "http")
        script = str(ROOT / "tests" / "bench" / "python_peers.py")
        return (str(TOOLS / "bin" / "python"), script, program, base, str(origin.ca), case.name, str(dest))

    return command


CLIENTS: dict[str, tuple[Command, frozenset[str]]] = {
    "agent": (ours("move"), frozenset({"http", "https", "s3"})),
    "agent fetch": (ours("fetch"), frozenset({"http"})),
    "cp": (copy, frozenset({"http"})),
    "rclone": (rclone, frozenset({"http", "https", "s3"})),
    "s5cmd": (s5cmd, frozenset({"http", "https", "s3"})),
    "curl": (curl, frozenset({"http", "https"})),
    "aria2c": (aria2, frozenset({"http", "https"})),
    "obstore": (python("obstore"), frozenset({"s3"})),
    "boto3": (python("boto3"), frozenset({"s3"})),
}


def once(command: Sequence[str], figures: Figures) -> None:
    environment = {**os.environ, "AWS_REGION": "us-east-1", "PYTHONPATH": str(ROOT)}
    runner = (sys.executable, "-S", "-E", str(ROOT / "tests" / "bench" / "run_one.py"), *command)
    told = subprocess.run(runner, env=environment, check=True, capture_output=True, text=True).stdout
    status, wall, cpu, rss_mib = (float(word) for word in told.split())
    if status:
        figures.failures += 1
        return
    figures.wall.append(wall)
    figures.cpu.append(cpu)
    figures.rss_mib.append(rss_mib)


def complete(dest: Path, case: Case) -> bool:
    """Every file is there with its size; the agent's own store is trusted to have verified more."""
    sizes = sum(path.stat().st_size for path in dest.rglob("*.bin"))
    blobs = sum(path.stat().st_size for path in dest.rglob(".agent-blob-*"))
    return case.files * case.size in {sizes, blobs}


def measure(
    origin: Origin, scheme: str, case: Case, rounds: int, clients: Sequence[str]
) -> dict[str, Figures]:
    table = {name: Figures() for name in clients if scheme in CLIENTS[name][1]}
    for _ in range(rounds):
        for name, figures in table.items():
            with tempfile.TemporaryDirectory(dir=origin.home) as folder:
                dest = Path(folder)
                once(CLIENTS[name][0](origin, scheme, case, dest), figures)
                if not complete(dest, case):
                    figures.failures += 1
    return table


def show(title: str, table: dict[str, Figures]) -> None:
    print(
        f"\n{title}\n{'client':14}{'wall s':>9}{'min':>8}{'max':>8}{'CPU s':>8}{'RSS MiB':>9}{'× agent':>9}"
    )
    own = statistics.median(table["agent"].wall or [float("nan")])
    for name, figures in sorted(table.items(), key=lambda each: statistics.median(each[1].wall or [1e9])):
        if not figures.wall or figures.failures:
            print(f"{name:14} failed {figures.failures} times")
            continue
        wall = statistics.median(figures.wall)
        print(
            f"{name:14}{wall:9.2f}{min(figures.wall):8.2f}{max(figures.wall):8.2f}"
            f"{statistics.median(figures.cpu):8.2f}{max(figures.rss_mib):9.0f}{wall / own:9.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", default="ABC")
    parser.add_argument("--schemes", default="http,https,s3")
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "model-agent-bench")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wanted = [case for case in cases(args.scale) if case.name in args.cases]
    clients = [name for name in args.clients.split(",") if name in CLIENTS]
    results = {}
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; files in the page cache")
    with origin(args.home, wanted) as served:
        for scheme in args.schemes.split(","):
            for case in wanted:
                table = measure(served, scheme, case, args.rounds, clients)
                title = f"{case.name} {case.files} × {case.size >> 10} KiB over {scheme}"
                show(f"{title}, load {os.getloadavg()[0]:.1f}", table)
                results[title] = {name: asdict(figures) for name, figures in table.items()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    shutil.rmtree(args.home / "tmp", ignore_errors=True)


if __name__ == "__main__":
    main()
