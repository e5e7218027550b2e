"""Alert rules and dashboard are over metrics that there are, and Prometheus takes the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from ajit.instrumentation.alerts import ALERTS, rules_text
from ajit.instrumentation.grafana import PANELS, dashboard_text
from ajit.instrumentation.metrics import COUNTERS, GAUGES, HISTOGRAMS
from ajit.kv import metrics as kv

LABELS = {each.name: {each.label} for each in (*COUNTERS, *GAUGES)} | {
    each.name: {name for sample in each.samples for name, _ in sample.labels} for each in kv.METRICS
}
VALUES = {each.name: {sample.label for sample in each.samples} for each in (*COUNTERS, *GAUGES)}
KNOWN = {*LABELS, *(f"{each.name}_bucket" for each in HISTOGRAMS)}
EXPRESSIONS = [alert.expr for alert in ALERTS] + [
    expr for panel in PANELS for expr, _ in panel.curves
]


def names_in(expr: str) -> set[str]:
    """The metrics of an expression."""
    return set(re.findall(r"\bajit_\w+", expr))


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_expression_is_about_metrics_and_labels_that_there_are(expr):
    """A name that is typed wrong would be an alert that never comes."""
    assert names_in(expr)
    assert names_in(expr) <= KNOWN
    for name, label, value in re.findall(r'(ajit_\w+)\{(\w+)="(\w+)"\}', expr):
        assert label in LABELS[name]
        assert value in VALUES[name]
    for label in re.findall(r"by \((\w+)\)", expr):
        assert label in {"le", "instance"} | set().union(
            *(LABELS.get(name, set()) for name in names_in(expr))
        )


def test_counters_are_looked_at_by_their_increase_and_gauges_are_not():
    """The one says nothing by itself, the other nothing by its rate."""
    for expr in EXPRESSIONS:
        for name in names_in(expr):
            grown = re.search(rf"(rate|increase)\({name}\b", expr)
            assert bool(grown) == name.endswith(("_total", "_bucket")), expr


def test_prometheus_takes_the_rules(tmp_path):
    """By its own tool, where that is installed (Debian: prometheus)."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    file = tmp_path / "ajit.rules.yml"
    file.write_text(rules_text())

    done = subprocess.run(
        [promtool, "check", "rules", file], check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


def test_dashboard_has_every_panel_once_and_none_over_another():
    """Grafana moves what overlaps, and then it looks like nothing that was meant."""
    panels = json.loads(dashboard_text())["panels"]
    shown = [panel for panel in panels if panel["type"] == "timeseries"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert [panel["title"] for panel in shown] == [panel.title for panel in PANELS]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


@pytest.mark.parametrize(
    ("what", "begins", "code"), [("dashboard", "{", 0), ("rules", "groups:", 0), ("nothing", "", 2)]
)
def test_they_are_printed(what, begins, code):
    """For a file, or a pipe into Grafana's API."""
    done = subprocess.run(
        [sys.executable, "-m", "ajit.instrumentation", what],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == code
    assert done.stdout.startswith(begins)
