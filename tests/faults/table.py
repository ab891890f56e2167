"""`make faults`: runs every test that the catalogue names and prints what came of each fault.

Its exit code is 1 where a fault failed, was not run or has no answer yet.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pytest

from tests.faults.catalogue import Fault, catalogue, named, proves, without_parameters

BAD = {"FAILED", "NOT YET", "not run"}


class Results:
    """A plugin that keeps the outcomes by test, without its parameters, and sums up recorded figures."""

    def __init__(self) -> None:
        self.of: defaultdict[str, list[str]] = defaultdict(list)
        self.figures: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.of[without_parameters(report.nodeid)].append(report.outcome)
        if report.when == "call":
            whole = {name: value for name, value in report.user_properties if isinstance(value, int)}
            self.figures.update(whole)


def outcome(fault: Fault, results: Mapping[str, Sequence[str]]) -> tuple[str, int]:
    """The word for one fault, and how many tests spoke for it."""
    heard = [
        [word for found, words in results.items() if proves(node, found) for word in words]
        for node in fault.tests
    ]
    words = [word for each in heard for word in each]
    if "failed" in words:
        return "FAILED", len(words)
    if not fault.tests:
        return ("not here" if fault.reason else "NOT YET"), 0
    if not all("passed" in each for each in heard):
        return "not run", len(words)
    return ("passed, part" if fault.gap else "passed"), len(words)


def rows(faults: Mapping[str, Fault], results: Mapping[str, Sequence[str]]) -> list[str]:
    lines = []
    for name, fault in faults.items():
        word, count = outcome(fault, results)
        lines.append(f"{name:<4}{'gate' if fault.gate else '':<5}{word:<13}{count:>4}  {fault.fault}")
        lines += [f"{'':<28}· {note}" for note in (fault.gap, fault.reason) if note]
    return lines


def main() -> int:
    faults, results = catalogue(), Results()
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "--numprocesses", "3", "--dist", "loadfile"]
    code = pytest.main([*options, *named(faults)], plugins=[results])
    print("\n".join(["", *rows(faults, results.of)]))
    words = [outcome(fault, results.of)[0] for fault in faults.values()]
    recorded = [f"{count} {name}" for name, count in sorted(results.figures.items())]
    print("\n".join(["", *counts(faults, words), "; ".join(recorded)]))
    return int(code) or int(bool(BAD & set(words)))


def counts(faults: Mapping[str, Fault], words: Sequence[str]) -> list[str]:
    """The figures of a run."""
    tested = sum(bool(fault.tests) for fault in faults.values())
    reasons = sum(not fault.tests and bool(fault.reason) for fault in faults.values())
    parts = sum(bool(fault.gap) for fault in faults.values())
    return [
        f"{len(faults)} faults: {tested} tested by {len(named(faults))} tests, {reasons} not injectable here",
        "; ".join(f"{words.count(word)} {word}" for word in sorted(set(words))),
        f"{parts} with a part that no test proves",
    ]


if __name__ == "__main__":
    sys.exit(main())
