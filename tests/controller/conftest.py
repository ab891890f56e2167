import pytest

from tests.fakes.cluster import Cluster, inference_service


@pytest.fixture
async def cluster():
    """A cluster with KServe's kinds, one InferenceService `p` of 1Gi, and two pods."""
    async with Cluster() as cluster:
        cluster.server.put(inference_service())
        await cluster.pod("pod-a")
        await cluster.pod("pod-b")
        yield cluster
