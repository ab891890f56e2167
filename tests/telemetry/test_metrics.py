"""Metrics: named as Prometheus asks, true to the board, and bounded however many models come and go."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from agent.core.actions import Cancelled, Failed, Fetch, Load, Succeeded, Unload
from agent.core.model import ModelName, ModelSpec, Rejection, Revision
from agent.core.reasons import Reason
from agent.telemetry.board import Board, ConfigWord, MemoryWord, ServerWord
from agent.telemetry.metrics import Metrics
from tests.web.boards import failed, ready

OPEN = "application/openmetrics-text; version=1.0.0"
CACHE = Path(os.environ.get("MODELAGENT_TEST_CACHE") or Path.home() / ".cache/model-agent")
PROMTOOL = CACHE / "promtool/promtool"
BASE_UNITS = ("_seconds", "_bytes", "_ratio")
FETCH = Fetch(ModelName("m"), ModelSpec("s3://bucket/m", "sklearn", 1))
LOAD = Load(ModelName("m"), FETCH.spec, Revision("1"), "s3://bucket/m")
UNLOAD = Unload(ModelName("m"), 1)


def board() -> Board:
    word = ConfigWord("/models.json", accepted=2, rejected=(Rejection("x", Reason.INVALID_NAME, "no"),))
    return Board(word, ServerWord("http://server", ready=True), MemoryWord(100, 40, 1, 2))


def lived() -> Metrics:
    """Return metrics in which every family has a sample."""
    there = board()
    there.turned_at = 0.0
    for status in (ready("a"), failed("b")):
        there.post(status)
    metrics = Metrics(there, lambda: 5.0)
    metrics.observation_age = lambda: 1.5
    for action in (FETCH, LOAD, UNLOAD):
        metrics.moved("s3://bucket/m", 7)
        for outcome in (Succeeded(action), Failed(action, Reason.STORAGE_ERROR, "no"), Cancelled(action)):
            metrics.acted(outcome, 0.2)
    metrics.planned(0.002)
    return metrics


def samples(metrics: Metrics, accept: str = "") -> dict[tuple[str, frozenset], float]:
    text = metrics.scrape(accept)[0].decode()
    families = parse_open(text) if accept else parse(text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"modelagent_{name}", frozenset(labels.items())))


def test_every_name_is_as_prometheus_asks():
    for family in parse(lived().scrape("")[0].decode()):
        assert re.fullmatch(r"(modelagent|process)_[a-z_]+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(milliseconds|minutes|kilobytes|megabytes|gauge|counter)", family.name)
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        elif family.name.startswith("modelagent_"):
            assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        for unit in BASE_UNITS:
            assert unit not in family.name.removesuffix(unit).removesuffix("_total")
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z_]+", label) for label in sample.labels)


@pytest.mark.real
@pytest.mark.skipif(not PROMTOOL.exists(), reason="tests/servers/promtool.sh has not fetched promtool")
def test_promtool_finds_nothing_to_say():
    text = lived().scrape("")[0]
    ended = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr.decode() + ended.stdout.decode()) == (0, "")


def test_openmetrics_is_given_where_it_is_asked_for():
    metrics = lived()
    body, content_type = metrics.scrape(OPEN)
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert samples(metrics, OPEN).keys() >= {("modelagent_unloads_total", frozenset({("outcome", "failed")}))}


def test_what_the_board_says_is_what_is_read():
    metrics = lived()
    assert value(metrics, "models", phase="Ready") == 1
    assert value(metrics, "models", phase="Failed") == 1
    assert value(metrics, "models", phase="Loading") == 0
    assert value(metrics, "unsettled_models", reason="NotFound") == 1
    assert value(metrics, "memory_budget_bytes") == 100
    assert value(metrics, "config_rejected_models") == 1
    assert value(metrics, "observation_age_seconds") == 1.5
    assert value(metrics, "reconcile_age_seconds") == 5.0
    assert value(metrics, "model_failed_attempts", model="b") == 2


def test_outcomes_are_counted_by_what_they_were():
    metrics = Metrics(board(), lambda: 0.0)
    metrics.moved("s3://bucket/m", 1000)
    metrics.acted(Succeeded(FETCH), 0.2)
    metrics.acted(Failed(FETCH, Reason.STORAGE_TIMEOUT, "slow"), 20.0)
    metrics.acted(Succeeded(UNLOAD), 0.1)
    assert value(metrics, "download_bytes_total", scheme="s3", outcome="succeeded") == 1000
    assert value(metrics, "download_bytes_total", scheme="s3", outcome="failed") == 0
    assert value(metrics, "download_duration_seconds_bucket", scheme="s3", outcome="failed", le="15.0") == 0
    assert value(metrics, "download_duration_seconds_bucket", scheme="s3", outcome="failed", le="60.0") == 1
    assert value(metrics, "download_duration_seconds_count", scheme="s3", outcome="failed") == 1
    assert value(metrics, "retries_total", action="fetch", reason="StorageTimeout") == 1
    assert value(metrics, "unloads_total", outcome="succeeded") == 1


@given(st.text(max_size=30))
def test_no_uri_makes_a_series_of_its_own(scheme):
    metrics = Metrics(board(), lambda: 0.0)
    before = len(samples(metrics))
    metrics.acted(Succeeded(Fetch(ModelName("m"), ModelSpec(f"{scheme}://x", "f", 0))), 0.1)
    labels = {dict(key[1]).get("scheme") for key in samples(metrics)}
    assert labels <= {None, "other", "s3", "gs", "http", "https", "file", "pvc", "hf", "abfs", "az", "oci"}
    assert len(samples(metrics)) == before + 1 + 11 + 2  # the bytes, the buckets, count and sum


def test_failures_are_counted_from_nought_so_that_a_rate_sees_the_first():
    there = board()
    there.post(ready("before"))
    metrics = Metrics(there, lambda: 0.0)
    there.post(ready("after", uri="hf://org/model"))
    for scheme in ("s3", "hf"):
        assert value(metrics, "download_duration_seconds_count", scheme=scheme, outcome="failed") == 0
        assert value(metrics, "download_bytes_total", scheme=scheme, outcome="succeeded") == 0
    assert value(metrics, "load_duration_seconds_count", outcome="failed") == 0
    assert value(metrics, "unloads_total", outcome="failed") == 0
    assert value(metrics, "download_duration_seconds_count", scheme="gs", outcome="failed") is None


def test_stalled_is_what_healthz_says_whatever_the_age():
    metrics = Metrics(board(), lambda: 500.0)
    assert value(metrics, "reconcile_stalled") == 0
    metrics.alive = lambda: False
    assert value(metrics, "reconcile_stalled") == 1


def test_a_hundred_thousand_models_come_and_go_and_the_series_stay():
    there = board()
    metrics = Metrics(there, lambda: 0.0, shown=100)
    for count in (*range(200),):
        there.post(ready(f"first-{count}"))
    first = len(samples(metrics))
    most = 0
    for wave in range(20):
        names = [ModelName(f"m-{wave}-{count}") for count in range(5000)]
        for name in names:
            there.post(ready(name))
        most = max(most, len(samples(metrics)))
        for name in names:
            there.drop(name)
    assert most == first
    assert len(samples(metrics)) == first
    assert len(there.histories) == 200


def test_models_beyond_the_most_are_summed_up_and_none_can_pose_as_the_sum():
    there = board()
    for name in ("a", "b", "other", "z"):
        there.post(ready(name))
    metrics = Metrics(there, lambda: 0.0, shown=2)
    shown = {dict(key[1])["model"] for key in samples(metrics) if key[0] == "modelagent_model_ready"}
    assert shown == {"a", "b", "other"}
    there.drop(ModelName("a"))
    assert value(metrics, "model_ready", model="a") is None
