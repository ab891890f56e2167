"""What a release is called: one version in README's Changes, in every manifest and in the injector."""

import re
import subprocess
import sys
from pathlib import Path

from agent import __version__
from agent.core.inject import Options

ROOT = Path(__file__).parents[2]


def newest():
    changes = (ROOT / "README.md").read_text().partition("\n## Changes\n")[2]
    return re.search(r"^### (\S+)$", changes, re.MULTILINE)[1]


def test_everything_that_names_the_image_names_the_newest_of_changes():
    files = [ROOT / "README.md", ROOT / "docker" / "compose.yaml", *(ROOT / "config").rglob("*.yaml")]
    named = {
        (path.name, version)
        for path in files
        for version in re.findall(r"model-agent:(\d[\w.]*)", path.read_text())
    }
    assert len(named) > 4
    assert {version for _, version in named} == {newest()}
    compose = (ROOT / "docker" / "compose.yaml").read_text()
    assert f"\n        VERSION: {newest()}\n" in compose
    assert Options().image == f"model-agent:{newest()}"


def test_the_command_says_the_version_of_the_installed_package():
    said = subprocess.run(
        [sys.executable, "-m", "agent", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"model-agent {__version__}\n"
    assert re.match(r"\d+\.", __version__)
