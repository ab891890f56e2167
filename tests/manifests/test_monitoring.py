"""config/monitoring: every expression asks for what a running agent really shows."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent.core.reasons import Reason
from agent.core.status import Phase
from agent.telemetry.metrics import WATCH_MODES
from tests.e2e.rig import started
from tests.manifests.prometheus import PROMTOOL, evaluated, has_a_number, series

FOLDER = Path(__file__).parents[2] / "config/monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
VALUES = {
    "phase": set(Phase),
    "reason": set(Reason),
    "mode": set(WATCH_MODES),
    "outcome": {"succeeded", "failed", "cancelled"},
}
TARGET_LABELS = {"namespace", "pod", "job"}  # what Prometheus adds

alerts = [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]
expressions = [rule["expr"] for rule in alerts]
expressions += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
expressions += [
    found[1]
    for variable in DASHBOARD["templating"]["list"]
    if (found := re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", "")))
]


async def scrapes_of_an_agent(folder):
    """What an agent shows once it has loaded and failed, and once it has done more and unloaded."""
    async with started(folder, flags={"memory-budget": "1Gi"}) as rig:
        for name in ("good", "more", "next"):
            rig.put(name, name)
        rig.want(a="good", b="more", c="nothing-there")
        await rig.agent.wait(lambda status: status.done == {"a", "b"} and status.reason("c") == "NotFound")
        await rig.agent.wait(lambda status: status["memory"]["serverRssBytes"])  # it is weighed now and then
        _, first = await rig.agent.get("/metrics")
        rig.want(a="good", d="next", c="nothing-there")
        await rig.agent.wait(lambda status: status.done == {"a", "d"} and status.names == {"a", "c", "d"})
        _, last = await rig.agent.get("/metrics")
    return first, last


def shown_in(text: str) -> dict[str, set[str]]:
    """Return the names of all series, each with its labels."""
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


async def test_each_metric_and_label_that_is_asked_for_is_shown_by_a_running_agent(tmp_path):
    first, last = await scrapes_of_an_agent(tmp_path)
    shown = shown_in(last) | {"up": TARGET_LABELS | {"job"}}
    assert [fault for expression in expressions for fault in faults(expression, shown)] == []
    if PROMTOOL.exists():
        inputs = series([first, first, last, last])
        asked = [
            has_a_number(target["expr"], 3) for panel in DASHBOARD["panels"] for target in panel["targets"]
        ]
        assert evaluated(tmp_path, [], inputs, asked) == ""


def faults(expression: str, shown: dict[str, set[str]]) -> list[str]:
    asked = re.findall(r"\b(up|(?:modelagent|process)_\w+)(?:\{([^}]*)\})?", expression)
    found = [] if asked else [f"asks for nothing: {expression}"]
    for name, matchers in asked:
        if name not in shown:
            found.append(f"no metric {name}")
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            if label not in TARGET_LABELS and label not in shown.get(name, ()):
                found.append(f"{name} has no label {label}")
            elif label not in TARGET_LABELS and not set(value.split("|")) <= VALUES[label]:
                found.append(f"{name} has no {label} {value}")
    summed = re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression)))
    known = TARGET_LABELS.union(*(shown.get(name, set()) for name, _ in asked))
    found += [f"nothing to sum by {label}: {expression}" for label in summed if label not in known]
    return found


@pytest.mark.parametrize("alert", alerts, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_it_means_and_what_to_do(alert):
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}
    assert alert["for"]
    assert len(notes["runbook"]) > 40


@pytest.mark.real
@pytest.mark.skipif(not PROMTOOL.exists(), reason="tests/servers/promtool.sh has not fetched promtool")
def test_promtool_reads_the_rules_and_every_expression(tmp_path):
    rules = {"groups": RULES["spec"]["groups"]}
    records = [
        {"record": f"dashboard:{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for number, expression in enumerate(expressions)
        if not expression.startswith("label_values")
    ]
    rules["groups"] = [*rules["groups"], {"name": "dashboard", "rules": records}]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    done = subprocess.run([PROMTOOL, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_every_panel_has_a_title_a_unit_and_a_place_of_its_own():
    taken = set()
    for panel in DASHBOARD["panels"]:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_pods_are_scraped_on_the_port_that_the_sidecar_names():
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    sidecar = (FOLDER.parent / "sidecar/sidecar.yaml").read_text()
    assert f"name: {endpoint['port']}" in sidecar
