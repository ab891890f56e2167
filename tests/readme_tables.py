"""The tables of the README that are made from code. `python tests/readme_tables.py` writes them anew."""

import re
from collections.abc import Callable
from pathlib import Path

from agent.core.explanations import EXPLANATIONS
from agent.core.sources import IGNORED, REFUSED, TAKEN
from agent.settings import FLAGS

README = Path(__file__).resolve().parent.parent / "README.md"


def flags() -> str:
    rows = [
        f"| `--{flag.name}` | `{flag.env}` | {f'`{flag.default}`' if flag.default else '-'} | {flag.help} |"
        for flag in FLAGS
    ]
    return "\n".join(["| flag | environment | default | meaning |", "|---|---|---|---|", *rows])


def reasons() -> str:
    rows = [
        f"| `{reason}` | {told.meaning} | {told.cause} | {told.remedy} |"
        for reason, told in EXPLANATIONS.items()
    ]
    return "\n".join(["| reason | what it means | usual cause | what to do |", "|---|---|---|---|", *rows])


def initializer() -> str:
    rows = [f"| {_code(names)} | {how} |" for names, how in TAKEN]
    rows += [f"| {_code(', '.join(IGNORED))} | taken and told: `--max-connections` says it here |"]
    rows += [f"| {_code(names)} ({_code(source)}) | refused: {why} |" for source, names, why in REFUSED]
    return "\n".join(["| variable | |", "|---|---|", *rows])


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" if " " not in name else name for name in names.split(", "))


TABLES: dict[str, Callable[[], str]] = {"flags": flags, "reasons": reasons, "initializer": initializer}


def section(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}:[^\n]*-->\n)(.*?)(<!-- /{name} -->)", re.DOTALL)


def rewritten(text: str) -> str:
    for name, make in TABLES.items():
        table = make()
        begin, end = found.span(2) if (found := section(name).search(text)) else (0, 0)
        text = f"{text[:begin]}{table}\n{text[end:]}"
    return text


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text()))
