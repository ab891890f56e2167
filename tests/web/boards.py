"""Boards as a reconciler would leave them."""

from agent.core.model import ModelName, ModelSpec, Revision
from agent.core.reasons import Reason
from agent.core.status import ModelStatus, Phase
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord

REVISION = Revision("ab" * 32)


def board_with(*statuses: ModelStatus) -> Board:
    board = Board(ConfigWord("/mnt/configs/models.json"), ServerWord("http://127.0.0.1:8080"), MemoryWord())
    for status in statuses:
        board.post(status)
    return board


def ready(name: str, uri: str = "s3://bucket/model") -> ModelStatus:
    spec = ModelSpec(uri, "sklearn", 1 << 20, "1Mi")
    return ModelStatus(ModelName(name), Phase.READY, True, None, None, spec, REVISION, REVISION, 0, None, ())


def failed(name: str) -> ModelStatus:
    spec = ModelSpec("s3://bucket/none", "sklearn", 0)
    words = "nothing is there"
    return ModelStatus(
        ModelName(name), Phase.FAILED, False, Reason.NOT_FOUND, words, spec, None, None, 2, 1e9, ()
    )


def moving(name: str, phase: Phase) -> ModelStatus:
    spec = ModelSpec(f"s3://bucket/{name}", "sklearn", 1 << 20, "1Mi")
    return ModelStatus(ModelName(name), phase, False, Reason.DOWNLOADING, None, spec, None, None, 0, None, ())
