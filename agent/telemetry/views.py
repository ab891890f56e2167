"""/status documents as a person sees them in a terminal: the head, the table, one model with its answer.

No word of a document moves the cursor, whoever put it there (fault X8).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.core import words
from agent.core.redact import harmless
from agent.telemetry.table import STYLES, bar, detail, models_table

BAR_CELLS = 30
MOST_REJECTED = 5  # shown of the refused entries, so that the models are in sight
_RESTING = frozenset({"Ready", "Unloading"})


def document_view(document: Mapping[str, Any], now: float, rows: int | None = None) -> RenderableType:
    """Return all of /status at *now* (Unix seconds); with *rows* what is most worth a look, and a count."""
    models = document["models"]
    lines = head_lines(document)
    if rows is None or len(models) <= rows:
        return Group(*lines, models_table(tame(models), now=now))
    shown = tame(
        sorted(models, key=lambda model: (model["phase"] in _RESTING, model["reason"] is None))[:rows]
    )
    rest = Text(f"… and {len(models) - len(shown)} more", style="dim")
    return Group(*lines, models_table(shown, now=now), rest)


def tame(value: Any) -> Any:
    """Return a JSON value in which every text is one line that does nothing to a terminal."""
    match value:
        case str():
            return harmless(value)
        case list():
            return [tame(each) for each in value]
        case dict():
            return {key: tame(each) for key, each in value.items()}
        case _:
            return value


def head_lines(document: Mapping[str, Any]) -> list[Text]:
    """Return server, memory, config and counts, a line each."""
    config, server, memory = (tame(document[part]) for part in ("config", "server", "memory"))
    ready = Text("ready", style="green") if server["ready"] else Text("not ready", style="bold red")
    lines = [Text(f"server  {server['url']}  {server['protocol'] or 'not found yet'}, ") + ready]
    if memory["budgetBytes"] is not None:
        share = memory["reservedBytes"] / memory["budgetBytes"] if memory["budgetBytes"] else 1.0
        held = f"{words.size(memory['reservedBytes'])} of {words.size(memory['budgetBytes'])}"
        lines.append(
            Text("memory  ")
            + bar(share, BAR_CELLS)
            + Text(f"  {held} reserved, {words.size(memory['freeBytes'])} free")
        )
    lines.append(_config_line(config))
    lines += _refusals(config)
    lines.append(_counts(document["models"], config))
    return lines


def _refusals(config: Mapping[str, Any]) -> list[Text]:
    """Return the first of the refused entries, how many more there are, and what to do about them."""
    shown = config["rejected"][:MOST_REJECTED]
    lines = [
        Text(f"        {entry['name'] or '?'}: {entry['reason']}: {entry['message']}", style="red")
        for entry in shown
    ]
    if len(config["rejected"]) > len(shown):
        more = len(config["rejected"]) - len(shown)
        lines.append(Text(f"        … and {more} more; --json has all", style="red"))
    reasons = [config["error"]["reason"]] if config["error"] is not None else []
    told = config.get("explanations", {})
    asked = dict.fromkeys([*reasons, *(entry["reason"] for entry in shown)])
    told_of = [(reason, told[reason]) for reason in asked if reason in told]
    return [
        *lines,
        *(Text(f"        {reason}: {each['cause']} {each['remedy']}") for reason, each in told_of),
    ]


def _config_line(config: Mapping[str, Any]) -> Text:
    if config["error"] is not None:
        last = (config["appliedDigest"] or "")[:12]
        stays = f"; {last} goes on, which was accepted last" if last else ""
        words_ = f"config  refused: {config['error']['reason']}: {config['error']['message']}{stays}"
        return Text(words_, style="bold red")
    if config["digest"] is None:
        return Text(f"config  {config['path']} has not been read yet", style="yellow")
    digest = (config["appliedDigest"] or "none yet")[:12]
    refused = f", {len(config['rejected'])} refused" if config["rejected"] else ""
    return Text(f"config  {digest}  {config['accepted']} accepted{refused}")


def _counts(models: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Text:
    line = Text("models  ")
    counts: dict[str, int] = {}
    for model in models:
        counts[model["phase"]] = counts.get(model["phase"], 0) + 1
    for phase, count in counts.items():
        line += Text(f"{count} {phase}  ", style=STYLES.get(phase, ""))
    if counts:
        return line
    unknown = config["error"] is not None or config["digest"] is None
    return line + Text("none known" if unknown else "none are wanted")


def model_view(model: Mapping[str, Any], now: float) -> RenderableType:
    """Return one model: its row, why it stands so, what is next, what to do, and its story."""
    model = tame(model)
    parts: list[RenderableType] = [models_table([model], now=now)]
    answer = model.get("explanation")
    if answer is not None:
        parts.append(_answer(answer, now))
    if model["spec"] is not None:
        parts.append(_wanted(model))
    parts.append(_conditions(model))
    if model.get("history"):
        parts.append(_story(model["history"], now))
    return Group(*parts)


def error_view(error: Mapping[str, Any], now: float) -> RenderableType:
    """Return an error of the agent, with its explanation where it has one."""
    error = tame(error)
    message = Text(f"{error['reason']}: {error['message']}", style="red")
    answer = error.get("explanation")
    return message if answer is None else Group(message, _answer(answer, now))


def _answer(answer: Mapping[str, Any], now: float) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")

    def row(title: str, text: str | None) -> None:
        if text:
            grid.add_row(title, Text(text))

    row("why", answer["summary"])
    row("since", answer["since"] and f"{ago(answer['since'], now)} ({answer['since']})")
    row("what to do", answer["remedy"])
    row("next", answer["nextStep"])
    row("next try", answer["nextTime"] and f"{ago(answer['nextTime'], now)} ({answer['nextTime']})")
    row("waits for", answer["waitsFor"])
    row("meaning", answer["meaning"])
    row("usual cause", answer["cause"])
    _refusal_rows(answer, row)
    for index, each in enumerate(answer["attempts"]):
        row("" if index else "last tries", f"{ago(each['time'], now)}: {detail({**each, 'progress': None})}")
    memory = answer["memory"]
    if memory is not None:
        need, free, budget = (words.size(memory[key]) for key in ("needBytes", "freeBytes", "budgetBytes"))
        row("memory", f"needs {need}, {free} of the budget of {budget} are free")
        for holder in memory["holders"]:
            row("", f"{words.size(holder['bytes']):>10}  {holder['name']}")
        if memory["otherModels"]:
            row("", f"{words.size(memory['otherBytes']):>10}  {memory['otherModels']} more models")
    return grid


def _refusal_rows(answer: Mapping[str, Any], row: Callable[[str, str | None], None]) -> None:
    """Add what is refused of models.json; in short where the answer is about that anyway."""
    refusal = answer.get("refusal")
    if refusal is not None:
        what = "models.json" if refusal["whole"] else "its entry"
        if refusal["remedy"] == answer["remedy"]:
            row("refused", f"{what}: {refusal['reason']}")
        else:
            row("refused", f"{what}: {refusal['reason']}: {refusal['message']}")
            row("", f"{refusal['cause']} {refusal['remedy']}")


_PROOFS = {
    "signed": "as signed by the key that the agent has",
    "declared": "as models.json declares",
    "provider": "as the storage's own checksum says",
    "seen-first": "as first seen; nobody names a checksum",
}


def _wanted(model: Mapping[str, Any]) -> Table:
    """Return what is wanted, and what speaks for its bytes."""
    spec, integrity = model["spec"], model.get("integrity")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("storage", Text(f"{spec['storageUri']} ({spec['framework']})"))
    grid.add_row(
        "budget", Text(f"{spec['memory'] or 'not given'}; {words.size(model['heldBytes'])} reserved")
    )
    if integrity is not None:
        kinds = f" ({', '.join(integrity['checksums'])})" if integrity["checksums"] else ""
        grid.add_row("bytes", Text(_PROOFS.get(integrity["proof"], integrity["proof"]) + kinds))
    return grid


def _conditions(model: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for condition in model["conditions"]:
        style = {"True": "green", "False": "red"}.get(condition["status"], "yellow")
        status = Text(condition["status"], style=style)
        grid.add_row(
            condition["type"], status, f"since {condition['lastTransitionTime']}", condition["reason"] or ""
        )
    return grid


def _story(history: Sequence[Mapping[str, Any]], now: float) -> Table:
    table = Table(title="what happened", title_justify="left", expand=False)
    for column in ("WHEN", "PHASE", "DETAIL"):
        table.add_column(column, overflow="fold", no_wrap=column != "DETAIL")
    for each in history:
        table.add_row(
            ago(each["time"], now),
            Text(each["phase"], style=STYLES.get(each["phase"], "")),
            Text(detail({**each, "progress": None})),
        )
        if each.get("leftOut"):
            table.add_row("", "", Text(f"… {each['leftOut']} more, no longer kept", style="dim"))
    return table


def ago(instant: str, now: float) -> str:
    """Return an RFC 3339 *instant* as `12 s ago` or `in 12 s`."""
    moment = datetime.fromisoformat(instant).replace(tzinfo=UTC).timestamp()
    span = words.duration(abs(now - moment))
    return f"in {span}" if moment > now else f"{span} ago"
