"""Killed at every mutating system call: the reader sees old or new, a fresh start converges (law 1, R1).

One unharmed run under strace tells which such calls a scenario makes; then it is run once for each,
killed right before it. The child has one thread and does the same each time. strace counts every kind of
call by itself, so a point is a kind and a number.
"""

import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.artifacts.manifest import blob_id, decode
from tests.artifacts.crash_child import MARK
from tests.artifacts.crash_scenarios import SCENARIOS, Place
from tests.artifacts.shelf import M
from tests.artifacts.strace import child, copied, prepared, weakness

CALLS = (
    "write,pwrite64,ftruncate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,fsync,fdatasync,fchmod,chmod,fchmodat,utimensat,copy_file_range,fallocate,sendfile,sync_file_range"
)
BESIDE = ("publish", "replace", "withdraw", "first-start")  # the others meet the same calls in one layout
RUNS = [(name, "drop-in") for name in SCENARIOS] + [
    pytest.param(name, "beside", marks=[] if name in BESIDE else [pytest.mark.soak]) for name in SCENARIOS
]


class Point(NamedTuple):
    """A kind of system call, and its how-manieth in the process."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call}-{self.number}"


@pytest.mark.parametrize(("name", "layout"), RUNS)
def test_killed_anywhere_it_is_old_or_new_and_the_next_start_converges(
    name, layout, tmp_path, record_property
):
    template = prepared(name, tmp_path / "template", layout)
    unharmed = copied(template, tmp_path / "unharmed")
    points = counted(name, unharmed, tmp_path / "log")
    assert points
    record_property("crash points", len(points))
    print(f"{name}, {layout}: {len(points)} crash points")
    final = settled(name, unharmed)
    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(lambda at: killed(name, template, tmp_path / f"{at}", at), points))
    # not from the threads: a child that was forked but has not started yet would still hold our lock
    verdicts = [problem_of(name, place, final) for place in places]
    assert [f"{at}: {verdict}" for at, verdict in zip(points, verdicts, strict=True) if verdict] == []


def counted(name: str, place: Place, log: Path) -> list[Point]:
    """Run unharmed; return the points after the mark."""
    done = child(name, place, *weakness(name), "-e", f"trace={CALLS}", "-o", str(log))
    assert done.returncode == 0, done.stderr.decode()
    seen: Counter[str] = Counter()
    points: list[Point] = []
    marked = False
    for line in log.read_text().splitlines():
        call = re.search(r"(\w+)\(", line)[1]
        seen[call] += 1
        if marked and "(INJECTED)" not in line:
            points.append(Point(call, seen[call]))
        marked = marked or MARK.decode() in line
    return points


def settled(name: str, place: Place) -> set[str]:
    """Start again and end the action; return what is on the disk then."""
    with place.open() as store:
        assert SCENARIOS[name].kept(store)
        SCENARIOS[name].act(store)
    return {str(path.relative_to(place.model_dir.parent)) for path in place.model_dir.parent.rglob("*")}


def killed(name: str, template: Place, top: Path, at: Point) -> Place:
    """Kill a copy before the call *at*; return what it leaves."""
    place = copied(template, top)
    inject = f"inject={at.call}:signal=KILL:when={at.number}"
    died = child(name, place, *weakness(name), "-e", f"trace={at.call},renameat2", "-e", inject)
    assert died.returncode in {137, -9}, died.stderr.decode()  # strace dies the way its child did
    return place


def problem_of(name: str, place: Place, final: set[str]) -> str:
    """What is wrong with what a killed process left, an empty text if nothing is."""
    if not SCENARIOS[name].seen(place):
        return "a reader sees a mixture"
    if problem := doubtful(place):
        return problem
    with place.open() as store:
        if not SCENARIOS[name].kept(store):
            return "something complete was lost"
    if litter := list(place.flat.glob(".agent-tmp-*")):
        return f"{litter} is left"
    left = settled(name, place) ^ final
    shutil.rmtree(place.model_dir.parent)
    return f"it ends in another state, {left}" if left else ""


def doubtful(place: Place) -> str:
    """What is on the disk that no reader may take at its word, before anybody swept."""
    folders = [path.name for path in place.model_dir.glob("*") if path.is_dir() and path.name != M]
    if place.store_dir and any(place.model_dir.glob(".agent-tmp-*/")):
        return f"{folders} in the server's sight"
    if any(not name.startswith(".agent-tmp-") for name in folders):
        return f"{folders} is no model"
    for path in place.flat.glob(".agent-manifest-*"):
        found = decode(path.read_bytes())
        for blob in found.stats if found else ():
            whole = place.flat / f".agent-blob-{blob}"
            known_bad = blob == blob_id(b"bad".hex())  # the one that the sweep is to find
            if not known_bad and (not whole.exists() or blob_id(whole.read_bytes().hex()) != blob):
                return f"{path.name} speaks of {blob}, which is not whole"
    return ""
