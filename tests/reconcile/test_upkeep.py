"""What the looking after says where the system gives nothing more: a reason, never an error of Python's."""

import shutil

import pytest

from agent.artifacts.store import Store
from agent.core.disk import DiskPolicy
from agent.core.errors import RetryableError
from agent.reconcile.upkeep import Room


def test_a_volume_that_cannot_be_asked_for_its_room_is_a_disk_error(tmp_path):
    with Store.open(tmp_path / "models", None) as store:
        room = Room(store, lambda: (), DiskPolicy())
        shutil.rmtree(tmp_path / "models")
        with pytest.raises(RetryableError, match="DiskError: asking for the room in"):
            room.make(1)
