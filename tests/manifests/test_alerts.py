"""Each alert fires where it should and nowhere else: promtool evaluates the rules over an agent's scrapes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from agent.core.actions import Failed, Fetch, Load, Succeeded
from agent.core.budget import Shortage
from agent.core.model import ModelName, ModelSpec, Rejection, Revision
from agent.core.reasons import Reason
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from agent.telemetry.metrics import Metrics
from tests.manifests.prometheus import PROMTOOL, evaluated, firing, series
from tests.web.boards import failed, ready

FOLDER = Path(__file__).parents[2] / "config/monitoring"
GROUPS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["spec"]["groups"]
MINUTES = 60
SPEC = ModelSpec("s3://bucket/m", "sklearn", 1)
FETCH = Fetch(ModelName("m"), SPEC)
LOAD = Load(ModelName("m"), SPEC, Revision("1"), "s3://bucket/m")
SHORT = Shortage(Reason.MEMORY_BUDGET_EXCEEDED, 90, 10, 100)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PROMTOOL.exists(), reason="tests/servers/promtool.sh has not fetched promtool"),
]


@dataclass
class Pod:
    """An agent that is well; `each` lives its minutes, `answers` says whether Prometheus reads it."""

    each: Callable[["Pod"], None] = lambda _: None
    answers: bool = True
    age: float = 1.0
    board: Board = field(init=False)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        word = ConfigWord("/models.json", "d", "d", 1)
        self.board = Board(word, ServerWord("http://s", "v2", ready=True), MemoryWord(100, 40))
        self.board.turned_at = 0.0
        self.board.post(ready("m"))
        self.metrics = Metrics(self.board, lambda: self.age)
        self.metrics.observation_age = lambda: 2.0
        self.metrics.watch_mode = lambda: "inotify"

    def minute(self) -> str | None:
        self.metrics.acted(Succeeded(FETCH), 2.0)
        self.metrics.acted(Succeeded(LOAD), 2.0)
        self.each(self)
        return self.metrics.scrape("")[0].decode() if self.answers else None


def fired(tmp_path: Path, pod: Pod, *alerts: str) -> str:
    scrapes = [Pod().minute(), *(pod.minute() for _ in range(MINUTES))]
    return evaluated(tmp_path, GROUPS, series(scrapes), [firing(0), firing(MINUTES, *alerts)])


def failing(action, reason):
    def each(pod: Pod) -> None:
        for _ in range(3):
            pod.metrics.acted(Failed(action, reason, "no"), 2.0)

    return each


def model_failed(pod: Pod) -> None:
    pod.board.post(failed("m"))


def short_of_memory(pod: Pod) -> None:
    status = replace(failed("w"), reason=Reason.MEMORY_BUDGET_EXCEEDED, shortage=SHORT, attempts=0)
    pod.board.post(replace(status, phase=ready("w").phase.PENDING))


def says(**words):
    def each(pod: Pod) -> None:
        kinds = {"config": pod.board.config, "server": pod.board.server, "memory": pod.board.memory}
        pod.board.say(**{kind: replace(kinds[kind], **given) for kind, given in words.items()})

    return each


def shows(**parts):
    def each(pod: Pod) -> None:
        for name, part in parts.items():
            setattr(pod.metrics, name, part)

    return each


def does_not_answer(pod: Pod) -> None:
    pod.answers = False


REJECTED = (Rejection("x", Reason.INVALID_MEMORY, "no"),)
TROUBLES: dict[str, Callable[[Pod], None]] = {
    "ModelAgentModelsFailed": model_failed,
    "ModelAgentConfigRefused": says(config={"error": (Reason.CONFIG_REJECTED, "no JSON")}),
    "ModelAgentEntriesRejected": says(config={"rejected": REJECTED}),
    "ModelAgentServerDown": says(server={"ready": False}),
    "ModelAgentWaitsForMemory": short_of_memory,
    "ModelAgentOverCommitted": says(memory={"reserved_bytes": 101}),
    "ModelAgentDownloadsFailing": failing(FETCH, Reason.STORAGE_ERROR),
    "ModelAgentLoadsFailing": failing(LOAD, Reason.LOAD_REJECTED),
    "ModelAgentStalled": shows(alive=lambda: False),
    "ModelAgentDown": does_not_answer,
    "ModelAgentBlind": shows(observation_age=lambda: 300.0),
    "ModelAgentPolling": shows(watch_mode=lambda: "poll"),
}


def test_an_agent_that_is_well_is_left_alone_though_it_goes_round_every_ten_minutes_only(tmp_path):
    assert fired(tmp_path, Pod(age=590.0)) == ""


@pytest.mark.parametrize("alert", TROUBLES)
def test_each_trouble_fires_its_alert_and_no_other(tmp_path, alert):
    also = ("ModelAgentAbsent",) if alert == "ModelAgentDown" else ()
    assert fired(tmp_path, Pod(TROUBLES[alert]), alert, *also) == ""


def test_where_no_agent_is_scraped_at_all_that_is_told(tmp_path):
    others = [{"series": 'up{job="others"}', "values": f"1x{MINUTES}"}]
    assert evaluated(tmp_path, GROUPS, others, [firing(MINUTES, "ModelAgentAbsent")]) == ""


def test_every_alert_has_its_trouble():
    names = {rule["alert"] for group in GROUPS for rule in group["rules"]}
    assert names == {*TROUBLES, "ModelAgentAbsent"}
