"""The models of a /status document as a table for a terminal."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from agent.core import words
from agent.core.progress import ProgressReading
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
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_CELLS = 16


def models_table(
    models: Sequence[Mapping[str, Any]], title: str | None = None, now: float | None = None
) -> Table:
    """Return a table: name, phase, ready, revision, what is going on; with *now* how long until a try."""
    table = Table(title=title, title_justify="left", expand=False)
    for column in ("MODEL", "PHASE", "READY", "REVISION", "DETAIL"):
        table.add_column(column, overflow="fold", no_wrap=column != "DETAIL")
    for model in models:
        table.add_row(
            Text(model["name"]),
            Text(model["phase"], style=STYLES.get(model["phase"], "")),
            "yes" if model["ready"] else "no",
            (model["servedRevision"] or "")[:8],
            _cell(model, now),
        )
    return table


def _cell(model: Mapping[str, Any], now: float | None) -> Text:
    progress = model["progress"]
    if progress is not None and progress["totalBytes"]:
        share = progress["bytes"] / progress["totalBytes"]
        return bar(share, _CELLS) + Text(f" {share:4.0%} ") + Text(detail(model))
    text = detail(model)
    if now is not None and model["nextRetryTime"]:
        left = datetime.fromisoformat(model["nextRetryTime"]).replace(tzinfo=UTC).timestamp() - now
        text += f"; try {model['attempts'] + 1} in {words.duration(left)}"
    return Text(text)


def bar(share: float, cells: int) -> Text:
    """Return a bar of *cells* characters, *share* of it filled; in colour by how full it is."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, part = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[part] if part else "")
    style = "red" if share > 1.0 else "cyan"
    return Text(filled, style=style) + Text("·" * (cells - len(filled)), style="dim")


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
    words_ = [reason or "", model["message"] or ""]
    return ": ".join(word for word in words_ if word)
