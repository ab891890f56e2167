"""/status as JSON: the fixed interface, byte for byte the same for the same state (null where unknown).

A model's piece is made once a change and kept, so that 10,000 models cost a join and not 10,000
encodings. Secrets do not get this far, but URIs are shown without userinfo and query all the same.
"""

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from agent.core import uri
from agent.core.conditions import Condition
from agent.core.explain import Answer, MemorySum, Refusal, explain, explain_refused
from agent.core.explanations import EXPLANATIONS
from agent.core.history import History, Transition
from agent.core.model import Integrity, ModelName, ModelSpec
from agent.core.progress import ProgressReading
from agent.core.reasons import Explanation, Reason
from agent.core.status import ModelStatus, Phase
from agent.telemetry.board import Board, ConfigWord

API_VERSION = "model-agent/v1"
_MOVING = frozenset({Phase.DOWNLOADING, Phase.UPDATING})


def instant(seconds: float | None) -> str | None:
    """Return Unix *seconds* as RFC 3339 in UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encoded(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Renderer:
    """Renders the board. *unix* turns the monotonic time of a next try into Unix seconds."""

    def __init__(self, board: Board, unix: Callable[[float], float]) -> None:
        self._board = board
        self._unix = unix
        self._pieces: dict[ModelName, tuple[ModelStatus, bytes, float | None]] = {}

    def names(self) -> list[ModelName]:
        """Return the names of all models, sorted."""
        return sorted(self._board.models)

    def document(self, names: Iterable[ModelName], extra: dict[str, Any] | None = None) -> bytes:
        """Return the whole of /status with the models of *names* that are still there."""
        head = encoded(self._head() | (extra or {}))
        pieces = b",".join(
            self.piece(self._board.models[name]) for name in names if name in self._board.models
        )
        if len(self._pieces) > len(self._board.models):
            self._pieces = {name: kept for name, kept in self._pieces.items() if name in self._board.models}
        return head[:-1] + b',"models":[' + pieces + b"]}"

    def piece(self, status: ModelStatus) -> bytes:
        """Return one model, from memory unless it has changed, is on the move, or the clock was set."""
        known = self._pieces.get(status.name)
        due = None if status.next_retry is None else self._unix(status.next_retry)
        if known is not None and known[0] is status and status.phase not in _MOVING and known[2] == due:
            return known[1]
        piece = encoded(self.model(status))
        self._pieces[status.name] = (status, piece, due)
        return piece

    def changes(self, names: Iterable[ModelName], *, head: bool, config: bool) -> bytes:
        """Return what is true now of *names*, with *head* of server and memory, with *config* of that."""
        names = tuple(names)
        there = [self._board.models[name] for name in names if name in self._board.models]
        gone = [name for name in names if name not in self._board.models]
        pieces = b",".join(map(self.piece, there))
        rest: dict[str, Any] = {"gone": gone}
        if head:
            rest |= {"server": self._server(), "memory": self._memory()}
        if config:
            rest["config"] = _config(self._board.config)
        return b'{"models":[' + pieces + b"]," + encoded(rest)[1:]

    def progress(self, names: Iterable[ModelName]) -> dict[str, Any]:
        """Return how far the downloads of *names* are, by name; those that are not running are left out."""
        found: dict[str, Any] = {}
        for name in names:
            status = self._board.models.get(name)
            if status is not None and status.spec is not None:
                reading = _progress(self._board.progress(status.spec.storage_uri))
                found |= {name: reading} if reading is not None else {}
        return found

    def explained(self, status: ModelStatus) -> bytes:
        """Return one model with its explanation and its history."""
        history = self._board.histories.get(status.name, ())
        refusal = self._board.refusal_of(status.name)
        answer = explain(status, history, self._board.models.values(), refusal)
        return self._explained(status, answer, history)

    def refused(self, name: str, refusal: Refusal) -> bytes:
        """Return a name whose entry is refused and under which nothing is there, as a model that failed."""
        told = ModelName(name), Phase.FAILED, False, refusal.reason, refusal.message
        status = ModelStatus(*told, None, None, None, 0, None, ())
        return self._explained(status, explain_refused(refusal), ())

    def unknown(self, name: str) -> bytes:
        """Return the error for a name that nothing is known of; it explains where that may be a fault."""
        config = self._board.config
        error: dict[str, Any] = {
            "reason": "NotFound",
            "message": f"no model named {name[:253]!r} is wanted or served",
        }
        if config.error is not None:
            refusal = Refusal(*config.error, whole=True)
            error["message"] += f"; but models.json as it is now is refused: {config.error[1]}"
            error["explanation"] = _answer(explain_refused(refusal), self._unix)
        elif config.digest is None:
            error["message"] += "; models.json has not been read yet"
        return encoded(error)

    def _explained(self, status: ModelStatus, answer: Answer, history: History) -> bytes:
        return encoded(
            self.model(status)
            | {
                "explanation": _answer(answer, self._unix),
                "history": [_transition(each) for each in history],
            }
        )

    def model(self, status: ModelStatus) -> dict[str, Any]:
        """Return one model as values."""
        reading = self._board.progress(status.spec.storage_uri) if status.spec is not None else None
        return {
            "name": status.name,
            "phase": status.phase,
            "ready": status.ready,
            "reason": status.reason,
            "message": status.message,
            "spec": _spec(status.spec),
            "revision": status.revision,
            "servedRevision": status.served_revision,
            "integrity": _integrity(status.integrity),
            "heldBytes": status.held_bytes,
            "progress": _progress(reading),
            "attempts": status.attempts,
            "nextRetryTime": _moment(status.next_retry, self._unix),
            "conditions": [_condition(condition) for condition in status.conditions],
        }

    def _head(self) -> dict[str, Any]:
        rules = self._board.rules
        return {
            "apiVersion": API_VERSION,
            "config": _config(self._board.config),
            "rules": {
                "updatePolicy": rules.update_policy,
                "defaultModelMemoryBytes": rules.default_memory_bytes,
                "maxRemoval": rules.max_removal,
            },
            "server": self._server(),
            "memory": self._memory(),
        }

    def _server(self) -> dict[str, Any]:
        server = self._board.server
        return {"url": uri.redacted(server.url), "protocol": server.protocol, "ready": server.ready}

    def _memory(self) -> dict[str, Any]:
        memory = self._board.memory
        free = None if memory.budget_bytes is None else max(memory.budget_bytes - memory.reserved_bytes, 0)
        return {
            "budgetBytes": memory.budget_bytes,
            "reservedBytes": memory.reserved_bytes,
            "freeBytes": free,
            "agentRssBytes": memory.agent_rss_bytes,
            "serverRssBytes": memory.server_rss_bytes,
        }


def _config(config: ConfigWord) -> dict[str, Any]:
    return {
        "path": config.path,
        "digest": config.digest,
        "appliedDigest": config.applied_digest,
        "plannedDigest": config.planned_digest,
        "accepted": config.accepted,
        "rejected": [
            {"name": entry.name, "reason": entry.reason, "message": entry.message}
            for entry in config.rejected
        ],
        "error": config.error and {"reason": config.error[0], "message": config.error[1]},
        "explanations": {reason: _told(EXPLANATIONS[reason]) for reason in _reasons(config)},
    }


def _reasons(config: ConfigWord) -> list[Reason]:
    reasons = {entry.reason for entry in config.rejected}
    return sorted(reasons | ({config.error[0]} if config.error is not None else set()))


def _told(told: Explanation) -> dict[str, str]:
    return {"meaning": told.meaning, "cause": told.cause, "remedy": told.remedy}


def _refusal(refusal: Refusal) -> dict[str, Any]:
    words = {"reason": refusal.reason, "message": refusal.message, "whole": refusal.whole}
    return words | _told(EXPLANATIONS[refusal.reason])


def _spec(spec: ModelSpec | None) -> dict[str, Any] | None:
    if spec is None:
        return None
    return {
        "storageUri": uri.redacted(spec.storage_uri),
        "framework": spec.framework,
        "memory": spec.memory,
        "sha256": spec.sha256,
        "signature": spec.signature,
    }


def _integrity(integrity: Integrity | None) -> dict[str, Any] | None:
    if integrity is None:
        return None
    return {
        "proof": integrity.proof,
        "verified": integrity.verified,
        "checksums": list(integrity.checksums),
    }


def _progress(reading: ProgressReading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        "bytes": reading.bytes,
        "totalBytes": reading.total_bytes,
        "bytesPerSecond": reading.bytes_per_second,
        "etaSeconds": reading.eta_seconds,
    }


def _condition(condition: Condition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": {True: "True", False: "False", None: "Unknown"}[condition.status],
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": instant(condition.since),
    }


def _moment(moment: float | None, unix: Callable[[float], float]) -> str | None:
    return instant(None if moment is None else unix(moment))


def _transition(each: Transition) -> dict[str, Any]:
    return {
        "time": instant(each.at),
        "phase": each.phase,
        "reason": each.reason,
        "message": each.message,
        "attempts": each.attempts,
        "leftOut": each.left_out,
    }


def _answer(answer: Answer, unix: Callable[[float], float]) -> dict[str, Any]:
    told = answer.told
    return {
        "summary": answer.summary,
        "since": instant(answer.since),
        "meaning": told and told.meaning,
        "cause": told and told.cause,
        "remedy": told and told.remedy,
        "waitsFor": answer.waits_for,
        "nextStep": answer.next_step,
        "nextTime": _moment(answer.next_at, unix),
        "memory": answer.memory and _memory_sum(answer.memory),
        "attempts": [_transition(each) for each in answer.attempts],
        "refusal": answer.refusal and _refusal(answer.refusal),
    }


def _memory_sum(memory: MemorySum) -> dict[str, Any]:
    return {
        "needBytes": memory.need_bytes,
        "freeBytes": memory.free_bytes,
        "budgetBytes": memory.budget_bytes,
        "holders": [{"name": name, "bytes": held} for name, held in memory.holders],
        "otherModels": memory.other_models,
        "otherBytes": memory.other_bytes,
    }
