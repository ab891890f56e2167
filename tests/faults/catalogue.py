"""The fault catalogue as values, and which tests pytest knows. Each id has tests, a reason or a gap."""

import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
COUNTS = {"C": 26, "K": 19, "S": 25, "D": 17, "M": 16, "B": 9, "T": 5, "A": 11, "X": 15, "O": 15}
GATE = {
    "C": (2, 5, 10, 13, 16, 17, 20, 22),
    "K": (1, 2, 6, 7, 8, 10, 13),
    "S": (5, 6, 7, 8, 10, 11, 12, 18, 21),
    "D": (1, 5, 8, 10, 12, 14),
    "M": (3, 4, 5, 6, 9),
    "B": (1, 2, 3),
    "A": (1, 2, 3, 4, 5, 6, 7),
    "X": (1, 3, 5, 9),
    "O": (2, 3, 5, 9),
}
"""What a release waits for, as the catalogue names it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One id. `tests` are node ids without parameters; `gap` says what no test proves yet."""

    fault: str
    gate: bool = False
    tests: tuple[str, ...] = ()
    gap: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """A test that pytest knows, without its parameters; `soak` where make test leaves it out."""

    node: str
    soak: bool


def catalogue() -> Mapping[str, Fault]:
    with (TESTS / "faults" / "catalogue.toml").open("rb") as file:
        read = tomllib.load(file)
    return {
        name: Fault(**{**row, "tests": tuple(f"tests/{node}" for node in row.get("tests", ()))})
        for name, row in read.items()
    }


def named(faults: Mapping[str, Fault]) -> Sequence[str]:
    return sorted({node for fault in faults.values() for node in fault.tests})


def without_parameters(node: str) -> str:
    return node.partition("[")[0]


def proves(node: str, collected: str) -> bool:
    """Whether *collected* is the test *node*, or one of the class *node*."""
    return collected == node or collected.startswith(f"{node}::")


def collected_of(items: Iterable[pytest.Item]) -> frozenset[Collected]:
    return frozenset(
        Collected(without_parameters(item.nodeid), item.get_closest_marker("soak") is not None)
        for item in items
    )


class Collecting:
    """A plugin that keeps what was collected, before anything is deselected."""

    def __init__(self) -> None:
        self.found: frozenset[Collected] = frozenset()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.found = collected_of(items)


def main() -> int:
    """Print what pytest collects of the files given: a test a line, soak tests with a star."""
    collecting = Collecting()
    code = pytest.main(["--collect-only", "-qq", "--no-header", *sys.argv[1:]], plugins=[collecting])
    for test in sorted(collecting.found, key=lambda each: each.node):
        print(f"{'soak' if test.soak else 'test'} {test.node}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
