"""What is fuzzed: each target is a module with `one(data)`, which raises AssertionError where its law breaks.

An error that `one` does not expect is a finding too. Each has a small corpus in the repository. A target may
have `mutate(data, seed)` to change its inputs by their structure, and `SEEDS` to begin with.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

TARGETS = ("document", "quantity", "uri", "redactor", "archive", "review")
CORPUS = Path(__file__).with_name("corpus")


def target(name: str) -> Callable[[bytes], None]:
    return importlib.import_module(f"tests.fuzz.{name}").one


def corpus(name: str) -> Sequence[Path]:
    return sorted((CORPUS / name).iterdir())


def mutator(name: str) -> Callable[[bytes, int], bytes] | None:
    return getattr(importlib.import_module(f"tests.fuzz.{name}"), "mutate", None)


def seeds(name: str) -> Sequence[bytes]:
    return getattr(importlib.import_module(f"tests.fuzz.{name}"), "SEEDS", ())
