"""One target under atheris: `python -m tests.fuzz.drive TARGET LIBFUZZER-FLAGS…`; a process of its own."""

import sys

import atheris

with atheris.instrument_imports(include=["agent", "json", "tests.fuzz"]):
    from tests.fuzz.targets import target

    ONE = target(sys.argv[1])

atheris.Setup([sys.argv[0], *sys.argv[2:]], ONE)
atheris.Fuzz()
