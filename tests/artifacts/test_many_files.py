"""A model of very many files (fault D17): what it costs in memory is what is to be known of each file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.artifacts.many_files import peak

FEW, MANY = 5_000, 15_000
BYTES_A_FILE = 1_500
"""Path, key, identity, blob and checksum with their objects, listed and in the index: 1,060 measured."""


def peak_alone(folder, count):
    """Return the most bytes that a process holds that does nothing else."""
    words = [sys.executable, "-m", "tests.artifacts.many_files", str(folder), str(count)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_each_file_more_costs_what_is_known_of_it_and_nothing_of_its_download(tmp_path):
    few, many = peak_alone(tmp_path / "few", FEW), peak_alone(tmp_path / "many", MANY)
    assert (many - few) / (MANY - FEW) < BYTES_A_FILE, (many - few) / (MANY - FEW)


@pytest.mark.parametrize("count", [4096, 4097])
async def test_no_file_is_left_out_where_they_are_moved_in_rounds(tmp_path, count):
    await peak(tmp_path, count)
