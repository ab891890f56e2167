"""A pod in the middle of its day, for screenshots: most is well, some moves, waits or fails."""

import time
from dataclasses import replace

from agent.core.budget import Shortage
from agent.core.conditions import Condition, ConditionType
from agent.core.model import ModelName, ModelSpec, Rejection, Revision
from agent.core.progress import ProgressReading
from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord

GIB, MIB = 1 << 30, 1 << 20
READY = {
    "fraud-card-eu": 1800, "fraud-card-us": 1650, "churn-weekly": 640, "ranking-home": 2200,
    "spam-filter": 180, "pricing-dynamic": 900, "eta-couriers": 410, "credit-score": 760,
}  # fmt: skip


def status(name: str, phase: Phase, mib: int = 512, **given) -> ModelStatus:
    revision = Revision(f"{abs(hash(name)):016x}" * 4)
    spec = ModelSpec(f"s3://models-prod/{name}/2026-11-21", "sklearn", mib * MIB, f"{mib}Mi")
    plain = ModelStatus(
        ModelName(name), phase, phase is Phase.READY, None, None, spec, revision, revision, 0, None, ()
    )
    return replace(plain, held_bytes=mib * MIB if phase is Phase.READY else 0, **given)


def conditions(now: float, reason: Reason, message: str) -> tuple[Condition, ...]:
    return (
        Condition(ConditionType.ADMITTED, True, since=now - 7200),
        Condition(ConditionType.DOWNLOADED, True, since=now - 260),
        Condition(ConditionType.LOADED, True, since=now - 7100),
        Condition(ConditionType.UP_TO_DATE, False, reason, message, now - 250),
        Condition(ConditionType.READY, True, since=now - 7100),
    )


def busy_board() -> Board:
    moment = [time.time() - 7200]
    board = Board(
        ConfigWord(
            "/mnt/configs/models.json", "4f1d" * 16, "4f1d" * 16, 14,
            (Rejection("geo-index", Reason.INVALID_MEMORY, "memory '4 gigs' is no quantity such as 512Mi"),),
        ),
        ServerWord("http://127.0.0.1:8080", "mlserver", ready=True),
        MemoryWord(12 * GIB, 10 * GIB + 560 * MIB, 60 * MIB, 9 * GIB),
        wall=lambda: moment[0],
    )  # fmt: skip
    loading = {"ready": False, "served_revision": None}
    for name, mib in READY.items():
        board.post(status(name, Phase.DOWNLOADING, mib, reason=Reason.DOWNLOADING, **loading))
        moment[0] += 11
        board.post(status(name, Phase.LOADING, mib, reason=Reason.LOADING, **loading))
        moment[0] += 3
        board.post(status(name, Phase.READY, mib))
    now = time.time()
    refused = "the server refused it: model.joblib was written by scikit-learn 1.9, 1.7 is installed"
    search = {"mib": 1000, "ready": True, "conditions": conditions(now, Reason.LOAD_REJECTED, refused)}
    held = {"held_bytes": 1000 * MIB}
    board.post(replace(status("search-rerank", Phase.READY, 1000), conditions=search["conditions"]))
    for at, phase, reason, attempts in (
        (-300, Phase.UPDATING, Reason.DOWNLOADING, 0), (-262, Phase.UPDATING, Reason.LOADING, 0),
        (-250, Phase.FAILED, Reason.LOAD_REJECTED, 1), (-40, Phase.UPDATING, Reason.LOADING, 1),
        (-32, Phase.FAILED, Reason.LOAD_REJECTED, 2),
    ):  # fmt: skip
        moment[0] = now + at
        said = phase is Phase.FAILED
        board.post(
            replace(
                status("search-rerank", phase, **search), reason=reason, attempts=attempts, **held,
                message=f"{refused}; revision 9f31c2d4 keeps serving" if said else None,
                next_retry=now + 268 if said else None,
            )
        )  # fmt: skip
    moment[0] = now - 9
    board.post(status("translate-de", Phase.DOWNLOADING, 1400, reason=Reason.DOWNLOADING, **loading))
    board.post(status("vision-tags", Phase.DOWNLOADING, 800, reason=Reason.DOWNLOADING, **loading))
    board.post(status("forecast-hourly", Phase.LOADING, 350, reason=Reason.LOADING, **loading))
    board.post(
        status(
            "embeddings-xl", Phase.DOWNLOADED, 4096, reason=Reason.MEMORY_BUDGET_EXCEEDED,
            shortage=Shortage(Reason.MEMORY_BUDGET_EXCEEDED, 4 * GIB, GIB + 464 * MIB, 12 * GIB),
            message="waits for memory: needs 4 GiB, 1.5 GiB of the budget of 12 GiB are free", **loading,
        )
    )  # fmt: skip
    board.post(
        status(
            "churn-daily", Phase.FAILED, 640, reason=Reason.ACCESS_DENIED, attempts=3, next_retry=now + 41,
            message="s3://models-prod/churn-daily: the role may not list this prefix (403)", **loading,
        )
    )  # fmt: skip
    readings = {
        "translate-de": ProgressReading(867 * MIB, 1310 * MIB, 92.0 * MIB, 4.8),
        "vision-tags": ProgressReading(120 * MIB, 760 * MIB, 88.0 * MIB, 7.3),
    }
    board.progress = lambda uri: readings.get(uri.split("/")[3])
    return board
