"""The kustomize patch that is made from code. `python -m tests.manifests.sidecar` writes it anew."""

from pathlib import Path

import yaml

from agent.core.inject import Options, patch

PATCH = Path(__file__).parents[2] / "config" / "sidecar" / "sidecar.yaml"
HEAD = "# Made from agent/core/inject.py by: python -m tests.manifests.sidecar\n"


def written() -> str:
    return HEAD + yaml.safe_dump(patch(Options()), sort_keys=False)


if __name__ == "__main__":
    PATCH.write_text(written())
