"""For the tests from end to end: real object stores, and both layouts of the volume (design §5).

Every test runs with the store in the model dir, as KServe's own injection has it. `make soak` runs every
one with the store beside it, too, as ours has it; `layouts` marks the cheap ones that `make test` runs so.
"""

import pytest

from tests.e2e.rig import LAYOUT
from tests.fakes import objectstores


def pytest_generate_tests(metafunc):
    if not hasattr(metafunc.module, "started") or "beside" in metafunc.fixturenames:
        return
    soaking = metafunc.config.option.markexpr == "soak"
    marked = metafunc.definition.get_closest_marker("layouts") is not None
    if soaking or marked:
        metafunc.fixturenames.append("layout")
        marks = () if marked else pytest.mark.soak
        layouts = [
            pytest.param("drop-in", id=pytest.HIDDEN_PARAM),
            pytest.param("beside", id="store-beside", marks=marks),
        ]
        metafunc.parametrize("layout", layouts, indirect=True)


@pytest.fixture
def layout(request, monkeypatch):
    """Which layout the rig has where a test does not say it itself."""
    monkeypatch.setenv(LAYOUT, request.param)


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    with objectstores.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as store:
        yield store
