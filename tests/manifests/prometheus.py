"""Prometheus without Prometheus: scrapes, one a minute, turned into what promtool evaluates rules over."""

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

CACHE = Path(os.environ.get("MODELAGENT_TEST_CACHE") or Path.home() / ".cache/model-agent")
PROMTOOL = CACHE / "promtool/promtool"
TARGET = {
    "namespace": "models",
    "pod": "predictor-0",
    "job": "monitoring/model-agent",
    "instance": "10.0.0.7:9082",
}
Values = dict[str, list[float | None]]


def series(scrapes: Sequence[str | None]) -> list[dict[str, str]]:
    """Return promtool's input series for *scrapes*, one a minute; None is one that failed."""
    found: Values = {}
    for minute, text in enumerate(scrapes):
        for name, value in _samples(text):
            found.setdefault(name, [None] * len(scrapes))[minute] = value
    up = _named("up", {})
    found[up] = [float(text is not None) for text in scrapes]
    return [{"series": name, "values": " ".join(map(_written, values))} for name, values in found.items()]


def _samples(text: str | None) -> Iterable[tuple[str, float]]:
    for family in text_string_to_metric_families(text or ""):
        for sample in family.samples:
            yield _named(sample.name, sample.labels), sample.value


def _named(name: str, labels: Mapping[str, str]) -> str:
    return (
        f"{name}{{{', '.join(f'{key}={json.dumps(text)}' for key, text in (TARGET | dict(labels)).items())}}}"
    )


def _written(value: float | None) -> str:
    return "_" if value is None else repr(value)


def evaluated(
    folder: Path,
    groups: Sequence[Mapping[str, Any]],
    inputs: Sequence[Mapping[str, str]],
    asked: Sequence[Mapping[str, Any]],
) -> str:
    """Have promtool evaluate *groups* over *inputs* and hold it to *asked*; return what it finds wrong."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": list(groups)}))
    test = {"interval": "1m", "input_series": list(inputs), "promql_expr_test": list(asked)}
    told = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yaml").write_text(yaml.safe_dump(told))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", folder / "test.yaml"], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stderr + done.stdout


def firing(minute: int, *alerts: str) -> dict[str, Any]:
    """Ask that after *minute* minutes exactly *alerts* fire."""
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
    }


def has_a_number(expression: str, minute: int) -> dict[str, Any]:
    """Ask that *expression* has a value that is a number: NaN is greater than nothing."""
    plain = re.sub(r"\$__rate_interval", "5m", expression)
    plain = re.sub(r"\$(namespace|pod)", ".*", plain)
    return {
        "expr": f"count(({plain}) >= 0) > bool 0",
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": "{}", "value": 1}],
    }
