"""Killed at the system calls of real work: the engine's journal, unpacking, copies, a refused update.

Threads make the order differ from run to run, so a point (a call, its how-manieth in a thread) may not be
reached; what must hold after it does not depend on where it was. make test takes a few points of each.
"""

import asyncio
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.artifacts.store import Store
from tests.artifacts import crash_real
from tests.artifacts.crash_real import MARK, NEW, OLD, ROOT, SCENARIOS, Real, a_load, fetch, perform, pod_of
from tests.artifacts.shelf import BOOT, M, tree
from tests.fakes.faulty_origin import FaultyOrigin

CALLS = (
    "write,pwrite64,ftruncate,fallocate,copy_file_range,sendfile,ioctl,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,sync_file_range,fchmod,chmod,fchmodat,utimensat"
)
FEW = 5


class Bed:
    """One scenario's origin, and the places that are killed."""

    def __init__(self, name: str, folder: Path, origin: FaultyOrigin) -> None:
        self.name, self.scenario, self.folder, self.origin = name, SCENARIOS[name], folder, origin
        self.url = self._source(self.scenario)
        self.reached = 0

    def _source(self, scenario: Real) -> str:
        if not scenario.copied:
            for path, content in scenario.source.items():
                self.origin.put(f"/{path}", content)
            return f"{self.origin.url}/{next(iter(scenario.source), '')}"
        for path, content in scenario.source.items():
            (self.folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / "source" / path).write_bytes(content)
        return f"file://{self.folder}/source"

    def open(self, place: Path) -> Store:
        return Store.open(place / "models", place / "store", boot_id=BOOT)

    def prepared(self, name: str) -> Path:
        place = self.folder / name
        with self.open(place) as store:
            if self.name == "rollback":
                asyncio.run(perform(store, a_load(store, OLD, 1.0)))
                a_load(store, NEW, 2.0)
        return place

    def run(self, place: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
        weak = ["-e", f"inject={self.scenario.weakness}"] if self.scenario.weakness else []
        child = [
            sys.executable,
            "-B",
            crash_real.__file__,
            ROOT,
            self.name,
            place / "models",
            place / "store",
        ]
        command = ["strace", "-f", "-qq", *weak, *options, *child, self.url]
        return subprocess.run(command, check=False, capture_output=True, timeout=60)

    def points(self) -> list[tuple[str, int]]:
        """Every call after the mark, by its number in its own thread, each once."""
        log = self.folder / "log"
        done = self.run(self.prepared("unharmed"), "-e", f"trace={CALLS}", "-o", str(log))
        assert done.returncode == 0, done.stdout + done.stderr
        seen: Counter[tuple[str, str]] = Counter()
        points: dict[tuple[str, int], None] = {}
        marked = False
        for line in log.read_text().splitlines():
            found = re.match(r"(\d+) +(\w+)\(", line)
            if found is None:
                continue
            thread, call = found.groups()
            seen[thread, call] += 1
            if marked and "(INJECTED)" not in line and (call != "ioctl" or "FICLONE" in line):
                points[call, seen[thread, call]] = None
            marked = marked or MARK.decode() in line
        return list(points)

    def verdict(self, at: tuple[str, int]) -> str:
        call, number = at
        place = self.prepared(f"{call}-{number}")
        inject = f"inject={call}:signal=KILL:when={number}"
        died = self.run(place, "-e", f"trace={call},copy_file_range", "-e", inject, "-o", "/dev/null")
        self.reached += died.returncode in {137, -9}
        return self.rolled_back(place) if self.name == "rollback" else self.fetched(place)

    def rolled_back(self, place: Path) -> str:
        shown = tree(place / "models" / M)
        if shown not in (OLD, NEW):
            return f"a reader sees {shown}"
        with self.open(place) as store:
            asyncio.run(pod_of(store).take_back_open_intents())
            if (shown := tree(place / "models" / M)) != OLD:
                return f"the next start shows {shown}, and {store.told()}"
            asyncio.run(perform(store, a_load(store, OLD, 1.0)))
        litter = [path.name for path in (place / "store").glob(".agent-tmp-*")]
        return f"{litter} is left" if litter else ""

    def fetched(self, place: Path) -> str:
        good = {*self.scenario.files.values(), *self.scenario.source.values()}
        for path in (place / "store").glob(".agent-blob-*"):
            if path.read_bytes() not in good:
                return f"{path.name} is not whole"
        with self.open(place) as store:
            complete, before = self.url in store.revisions(), len(self.origin.requests())
            stored = asyncio.run(fetch(store, self.url))
            if complete and len(self.origin.requests()) != before:
                return "what was complete was asked for again"
            manifest = store.manifest(stored.uri, stored.revision)
            files = {e.path: store.blob_path(e.blob).read_bytes() for e in manifest.entries}
        if files != self.scenario.files:
            return f"it ends with {sorted(files)}, or other bytes in them"
        litter = [
            path.name for kind in ("tmp", "part", "journal") for path in place.glob(f"*/.agent-{kind}-*")
        ]
        return f"{litter} is left" if litter else ""


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("name", SCENARIOS)
def test_real_work_that_is_killed_anywhere_is_whole_or_absent_and_goes_on(
    name, every, tmp_path, record_property
):
    with FaultyOrigin() as origin:
        bed = Bed(name, tmp_path, origin)
        points = bed.points()
        chosen = points if every else points[:: max(1, len(points) // FEW)]
        record_property("crash points", len(chosen))
        with ThreadPoolExecutor(2) as pool:
            verdicts = list(pool.map(bed.verdict, chosen))
    print(f"{name}: killed at {bed.reached} of {len(chosen)} points, of {len(points)} there are")
    assert bed.reached > len(chosen) / 3, "hardly a point was reached"
    assert [f"{at}: {verdict}" for at, verdict in zip(chosen, verdicts, strict=True) if verdict] == []
