"""What `run --once` says at its end."""

import logging

from agent.telemetry.board import Board

log = logging.getLogger("agent")


def report_once(board: Board) -> int:
    """Log how `run --once` ended; return 0 if every model is ready and up to date, else 1."""
    faults: list[tuple[str, str, str]] = []
    if board.config.error is not None:
        faults.append(("the document", board.config.error[0], board.config.error[1]))
    faults += [(entry.name or "an entry", entry.reason, entry.message) for entry in board.config.rejected]
    faults += [
        (status.name, status.reason, status.message or "")
        for status in board.models.values()
        if status.reason is not None
    ]
    for who, reason, message in faults:
        log.error("not done: %s", who, extra={"reason": reason, "message_": message})
    if not faults:
        log.info("all models are ready", extra={"models": len(board.models)})
    return 1 if faults else 0
