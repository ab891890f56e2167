"""The models of a /status document as a table for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from agent.core.status import ProgressReading
from agent.telemetry.board import progress_words

STYLES = {
    "Ready": "green",
    "Failed": "bold red",
    "Downloading": "cyan",
    "Loading": "cyan",
    "Updating": "cyan",
    "Pending": "yellow",
    "Downloaded": "yellow",
    "Unloading": "magenta",
}


def models_table(models: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """Return a table: name, phase, ready, revision, what is going on."""
    table = Table(title=title, title_justify="left", expand=False)
    for column in ("MODEL", "PHASE", "READY", "REVISION", "DETAIL"):
        table.add_column(column, overflow="fold", no_wrap=column != "DETAIL")
    for model in models:
        table.add_row(
            model["name"],
            Text(model["phase"], style=STYLES.get(model["phase"], "")),
            "yes" if model["ready"] else "no",
            (model["servedRevision"] or "")[:8],
            detail(model),
        )
    return table


def detail(model: Mapping[str, Any]) -> str:
    """Return progress, or the reason with its message, in a line."""
    progress = model["progress"]
    if progress is not None:
        return progress_words(
            ProgressReading(
                progress["bytes"],
                progress["totalBytes"],
                progress["bytesPerSecond"],
                progress["etaSeconds"],
            )
        )
    reason = model["reason"] if model["reason"] != model["phase"] else None
    words = [reason or "", model["message"] or ""]
    return ": ".join(word for word in words if word)
