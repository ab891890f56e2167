import pytest

from tests.fakes import real_apiserver
from tests.fakes.cluster import Cluster, inference_service


def pytest_generate_tests(metafunc):
    """Run the suite against a real API server too, but for what is scripted in the fake."""
    if "cluster" in metafunc.fixturenames and metafunc.module.__name__.endswith("test_controller"):
        scripted = metafunc.definition.get_closest_marker("scripted")
        real = [] if scripted else [pytest.param("real", marks=pytest.mark.real)]
        metafunc.parametrize("cluster", ["fake", *real], indirect=True)


@pytest.fixture(scope="session")
def api_server(tmp_path_factory):
    """A real kube-apiserver for the session; skips where there is none."""
    with real_apiserver.started(tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture
async def cluster(request):
    """A cluster with KServe's kinds, one InferenceService `p` of 1Gi, and two pods."""
    real = getattr(request, "param", "fake") == "real"
    async with Cluster(server=request.getfixturevalue("api_server") if real else None) as cluster:
        cluster.server.put(inference_service())
        await cluster.pod("pod-a")
        await cluster.pod("pod-b")
        yield cluster
