import subprocess
import sys

import pytest

from tests.faults.catalogue import TESTS, Collected, catalogue, collected_of, named

EVERYTHING = pytest.StashKey[frozenset[Collected]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    config.stash[EVERYTHING] = collected_of(items)


@pytest.fixture(scope="session")
def collected(request):
    """What pytest collects of the files that the catalogue names; of this very run where it has them all."""
    files = {node.partition("::")[0] for node in named(catalogue())}
    here = request.config.stash[EVERYTHING]
    if files <= {test.node.partition("::")[0] for test in here}:
        return here
    there = [file for file in sorted(files) if (TESTS.parent / file).exists()]
    command = [sys.executable, "-m", "tests.faults.catalogue", *there]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    rows = (line.partition(" ") for line in done.stdout.splitlines() if line.startswith(("soak ", "test ")))
    return frozenset(Collected(node, kind == "soak") for kind, _, node in rows)
