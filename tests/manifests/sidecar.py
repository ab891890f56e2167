"""The kustomize patches, as the code makes them; `python -m tests.manifests.sidecar` writes them anew."""

from pathlib import Path

import yaml

from agent.core.inject import Options, patch

CONFIG = Path(__file__).parents[2] / "config"
PATCHES = {CONFIG / "sidecar" / "sidecar.yaml": True, CONFIG / "sidecar-classic" / "sidecar.yaml": False}
HEAD = "# Made from agent/core/inject.py by: python -m tests.manifests.sidecar\n"


def written(*, native: bool) -> str:
    return HEAD + yaml.safe_dump(patch(Options(native=native)), sort_keys=False)


if __name__ == "__main__":
    for path, native in PATCHES.items():
        path.write_text(written(native=native))
