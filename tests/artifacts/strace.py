"""Running the crash child under strace, on a copy of a prepared place."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.artifacts.crash_scenarios import SCENARIOS, Place

ROOT = Path(__file__).parents[2]


def prepared(name: str, top: Path, layout: str) -> Place:
    place = Place(top / "models", top / "store" if layout == "beside" else None)
    with place.open() as store:
        SCENARIOS[name].prepare(place, store)
    if name == "first-start":
        shutil.rmtree(top)
        top.mkdir()
    return place


def copied(template: Place, top: Path) -> Place:
    source = template.model_dir.parent
    subprocess.run(["cp", "-a", "--", source, top], check=True)
    return Place(top / "models", top / "store" if template.store_dir else None)


def child_command(name: str, place: Place) -> list[str | Path]:
    """The crash child's command line; it starts fast and writes nothing of its own."""
    python = [sys.executable, "-I", "-S", "-B", Path(__file__).with_name("crash_child.py"), ROOT]
    return [*python, name, place.model_dir, *([place.store_dir] if place.store_dir else [])]


def child(name: str, place: Place, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run it under strace."""
    command = ["strace", "-qq", *options, *child_command(name, place)]
    return subprocess.run(command, check=False, capture_output=True, timeout=60)


def weakness(name: str) -> list[str]:
    """What the file system cannot do in this scenario."""
    return ["-e", "inject=renameat2:error=EINVAL"] if SCENARIOS[name].without_exchange else []
