"""One target under atheris: `python -m tests.fuzz.drive TARGET LIBFUZZER-FLAGS…`; a process of its own."""

import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["agent", "json", "tests.fuzz"]):
    from tests.fuzz.targets import mutator, target

    ONE, CHANGED = target(sys.argv[1]), mutator(sys.argv[1])


def by_structure(changed: Callable[[bytes, int], bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that now and then changes bytes, and so does where nothing else can be changed."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        made = changed(data, seed) if seed % 8 else data
        if made == data or len(made) > most:
            return bytes(atheris.Mutate(data, most))
        return made

    return mutate


options = {} if CHANGED is None else {"custom_mutator": by_structure(CHANGED)}
atheris.Setup([sys.argv[0], *sys.argv[2:]], ONE, **options)
atheris.Fuzz()
