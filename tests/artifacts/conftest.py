"""A store in each of its two layouts."""

import pytest

from tests.artifacts.shelf import Clock, Shelf


@pytest.fixture(params=["drop-in", "beside"])
def shelf(request, tmp_path):
    store_dir = tmp_path / "store" if request.param == "beside" else None
    return Shelf(tmp_path / "models", store_dir, Clock())


@pytest.fixture
def store(shelf):
    with shelf.open() as store:
        yield store
