"""The process that reads a signature: prints what was signed if the key proves it, else says why not.

Run by `signatures.signed_digests`; its standard output is one JSON object, and only with exit code 0.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from agent.artifacts.signatures import MISSING_PACKAGE


class _Anything:
    """Stands for the hashes of a model, and equals whatever was signed: the parent compares, not we.

    `model_signing.verifying.Config.set_hashing_config` takes it; the library calls `hash` only after the
    key has proved the signature, and then asks whether its result equals what was signed.
    """

    def __init__(self) -> None:
        self.ignored: list[str] = []
        self.signed: Any = None

    def add_ignored_paths(self, *, model_path: object, paths: list[str]) -> None:  # noqa: ARG002 - the library's
        self.ignored += paths

    def hash(self, model_path: object, *, files_to_hash: object = None) -> "_Anything":  # noqa: ARG002
        return self

    def __eq__(self, other: object) -> bool:
        self.signed = other
        return True

    __hash__ = None  # type: ignore[assignment]


def main(signature: str, key: str) -> int:
    """Return the exit code; see the file."""
    try:
        from model_signing import verifying  # noqa: PLC0415 - its absence is an answer
    except ImportError:
        return MISSING_PACKAGE
    anything = _Anything()
    with contextlib.redirect_stdout(sys.stderr):  # the library prints warnings
        library: Any = verifying  # untyped
        config = library.Config()
        config.use_elliptic_key_verifier(public_key=Path(key))
        config.set_hashing_config(anything).verify(Path("/"), Path(signature))
    serialization = anything.signed.serialization_type
    if (serialization["method"], serialization["hash_type"]) != ("files", "sha256"):
        sys.exit("it was not made of the sha256 of whole files; sign with the default method")
    digests = {each.identifier: each.digest.digest_hex for each in anything.signed.resource_descriptors()}
    json.dump({"digests": digests, "ignored": anything.ignored}, sys.stdout)
    return 0
