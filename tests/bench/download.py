"""How fast bytes come, beside the native tools, in one run:

    python -m tests.bench.download [--scale 0.25] [--rounds 5] [--cases ABC] [--schemes http,https,s3]

Rounds are interleaved, the origin's files are in the page cache, the 4,000 small ones are written to a
tmpfs where there is one, and nobody syncs but `agent fetch`, which is the whole way into the store. Wall
seconds include the start of the process. Prints medians with min and max, CPU seconds and peak RSS of the
client, and each aim with what came of it; asserts nothing. Over s3 the agent lists and heads as it does for
a user, against nginx as an anonymous S3. A peer that is not installed is named and left out.
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
MEMORY = Path("/dev/shm")
MANY = 1000
MIB = 1 << 20
SPARE_BYTES = 512 * MIB
REPORTING = Path("/sys/module/page_reporting/parameters")
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
        way = "s3" if scheme == "s3" else mode
        return (sys.executable, "-m", "tests.bench.client", way, base, str(origin.ca), str(dest), str(files))

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
        remote = (
            f":s3,provider=Other,endpoint='{origin.url('http')}',force_path_style=true:bench/{case.name}/"
        )
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


def missing(name: str) -> str | None:
    """Say why a client cannot run here, None where it can."""
    if name in {"obstore", "boto3"}:
        folder = next(TOOLS.glob(f"lib/python*/site-packages/{name}"), None)
        return None if folder else f"{name} is not in {TOOLS}"
    program = {"rclone": _binary("rclone"), "s5cmd": _binary("s5cmd")}.get(name, name)
    if name.startswith("agent") or shutil.which(program):
        return None
    return f"there is no {program}"


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


def place_of(case: Case, home: Path) -> Path:
    """Say where the clients write: many small files go to memory where there is a tmpfs.

    What a disk's file system takes for a new file is no client's doing, and may be ten times what a client
    takes: an ext4 without a journal looks at every inode that was freed in the last minutes first (0.04 to
    0.6 ms a file, the same `cp`), so that who ran before decided who is fast.
    """
    return MEMORY if case.files > MANY and MEMORY.is_dir() else home


def _turned(clients: list[tuple[str, Figures]], turn: int) -> list[tuple[str, Figures]]:
    """Begin each round with another one: who comes after a slow writer finds its pages still on their way."""
    first = turn % len(clients)
    return clients[first:] + clients[:first]


def have_memory(count: int, place: Path) -> None:
    """Fill a file and remove it: the next client then finds pages that the machine below need not give.

    A virtual machine gives free pages back within seconds, and to touch them again costs more than all that
    a client does: the same 4 GiB took 3.7 s to write, and 0.4 s a moment later. Who came first paid. Memory
    that was anonymous does not help: the page cache takes other pages.
    """
    block, size = bytes(MIB), min(count + SPARE_BYTES, shutil.disk_usage(place).free // 2)
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        for _ in range(size // MIB):
            file.write(block)


def measure(
    origin: Origin, scheme: str, case: Case, rounds: int, clients: Sequence[str]
) -> dict[str, Figures]:
    table = {name: Figures() for name in clients if scheme in CLIENTS[name][1]}
    place = place_of(case, origin.home)
    for turn in range(rounds):
        for name, figures in _turned(list(table.items()), turn):
            with tempfile.TemporaryDirectory(dir=place) as folder:
                dest = Path(folder)
                have_memory(case.files * case.size, place)
                once(CLIENTS[name][0](origin, scheme, case, dest), figures)
                if not complete(dest, case):
                    figures.failures += 1
    return table


def show(title: str, table: dict[str, Figures]) -> None:
    print(
        f"\n{title}\n{'client':14}{'wall s':>9}{'min':>8}{'max':>8}{'CPU s':>8}{'RSS MiB':>9}{'× agent':>9}"
    )
    agent = table.get("agent", Figures())
    own = statistics.median(agent.wall or [float("nan")])
    for name, figures in sorted(table.items(), key=lambda each: statistics.median(each[1].wall or [1e9])):
        if not figures.wall or figures.failures:
            print(f"{name:14} failed {figures.failures} times")
            continue
        wall = statistics.median(figures.wall)
        print(
            f"{name:14}{wall:9.2f}{min(figures.wall):8.2f}{max(figures.wall):8.2f}"
            f"{statistics.median(figures.cpu):8.2f}{max(figures.rss_mib):9.0f}{wall / own:9.2f}"
        )


PEERS = ("rclone", "s5cmd", "curl", "aria2c", "obstore", "boto3")
LEANEST, MOST_RSS_MIB, COPY = 1.2, 96, 2.0
AIMS: dict[tuple[str, str], dict[str, float]] = {
    ("A", "http"): {"rclone": 1.3, "s5cmd": 2.0},
    ("B", "http"): {"rclone": 1.0, "s5cmd": 1.4},
    ("A", "https"): {"rclone": 1.0, "s5cmd": 1.1},
    ("B", "https"): {"rclone": 1.0, "s5cmd": 1.1},
    **{("C", scheme): {"rclone": 3.0, "s5cmd": 3.0} for scheme in ("http", "https", "s3")},
}


def aims(case: Case, scheme: str, table: dict[str, Figures]) -> list[dict[str, object]]:
    """Return what was aimed at in this case, what came of it, and whether that is enough."""
    good = {name: each for name, each in table.items() if each.wall and not each.failures}
    if "agent" not in good:
        return []
    own = good["agent"]
    wall = {name: statistics.median(each.wall) for name, each in good.items()}
    cpu = {name: statistics.median(each.cpu) for name, each in good.items()}
    peers = [name for name in PEERS if name in good]
    found: list[dict[str, object]] = []

    def told(what: str, value: float, aim: float | None, *, least: bool) -> None:
        met = None if aim is None else (value >= aim if least else value <= aim)
        found.append({"what": what, "value": round(value, 3), "aim": aim, "least": least, "met": met})

    if peers:
        fastest, leanest = min(peers, key=wall.__getitem__), min(peers, key=cpu.__getitem__)
        told(
            f"{fastest}'s wall (the fastest peer's) to ours", wall[fastest] / wall["agent"], None, least=True
        )
        gib = case.files * case.size / (1 << 30)
        words = f"CPU s a GiB to {leanest}'s ({cpu['agent'] / gib:.2f} to {cpu[leanest] / gib:.2f})"
        told(words, cpu["agent"] / max(cpu[leanest], 1e-9), LEANEST, least=False)
    for peer, aim in AIMS.get((case.name, scheme), {}).items():
        if peer in good:
            told(f"{peer}'s wall to ours", wall[peer] / wall["agent"], aim, least=True)
    if "cp" in good:
        told("our wall to cp's", wall["agent"] / wall["cp"], COPY, least=False)
    told("peak RSS, MiB", max(own.rss_mib), MOST_RSS_MIB, least=False)
    return found


def show_aims(found: list[dict[str, object]]) -> None:
    for each in found:
        sign = "≥" if each["least"] else "≤"
        aim = "" if each["aim"] is None else f", aim {sign} {each['aim']}"
        verdict = {True: "met", False: "NOT met", None: ""}[each["met"]]  # type: ignore[index]
        print(f"  {each['what']}: {each['value']:.2f}{aim}  {verdict}")


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
    left_out = {name: why for name in clients if (why := missing(name)) is not None}
    for name, why in left_out.items():
        print(f"{name} is left out: {why}; tests/bench/peers.sh installs the peers")
    clients = [name for name in clients if name not in left_out]
    results: dict[str, object] = {"leftOut": left_out}
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; files in the page cache")
    if REPORTING.is_dir():
        print(f"this machine gives free memory back while a client runs: see {REPORTING}; large cases suffer")
    with origin(args.home, wanted) as served:
        for scheme in args.schemes.split(","):
            for case in wanted:
                table = measure(served, scheme, case, args.rounds, clients)
                where = " to memory" if place_of(case, args.home) is MEMORY else ""
                title = f"{case.name} {case.files} × {case.size >> 10} KiB over {scheme}{where}"
                show(f"{title}, load {os.getloadavg()[0]:.1f}", table)
                found = aims(case, scheme, table)
                show_aims(found)
                rows = {name: asdict(figures) for name, figures in table.items()}
                results[title] = {"clients": rows, "aims": found}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    shutil.rmtree(args.home / "tmp", ignore_errors=True)


if __name__ == "__main__":
    main()
