"""The README says what the code does."""

import re
from pathlib import Path

from agent.cli import COMMANDS
from tests.readme_tables import README, TABLES, rewritten, section

ROOT = README.parent


def test_its_tables_are_those_of_the_code():
    text = README.read_text()
    assert all(section(name).search(text) for name in TABLES)
    assert rewritten(text) == text, "run: python tests/readme_tables.py"


def test_every_path_it_names_is_there():
    named = re.findall(r"`((?:agent|config|docker|tests)/[\w./-]*)`", README.read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_command_it_names_is_one():
    named = set(re.findall(r"`model-agent ([a-z][a-z-]*)", README.read_text()))
    assert named
    assert named <= COMMANDS.keys()


def test_the_architecture_names_every_folder_of_the_package():
    text = README.read_text()
    parts = [
        path for path in Path(ROOT / "agent").iterdir() if path.is_dir() and (path / "__init__.py").exists()
    ]
    assert [path.name for path in parts if f"`agent/{path.name}/`" not in text] == []
