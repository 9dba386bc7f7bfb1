"""The alert rules and the dashboard name only metrics and labels of `/metrics`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from director.service.metrics import HostSample, MetricsSample, render
from tests.needs import SEARCH, needs

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yml"
DASHBOARD = DEPLOY / "grafana/dashboards/director.json"

OF_PROMETHEUS = {"up": {"job"}}
BY_SCRAPE = {"instance", "job"}
"""Labels that Prometheus adds."""
METRIC = re.compile(r"\b(director_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
FULL = MetricsSample(
    version="1",
    python="3",
    compiled=True,
    lookups={("answered", "login"): 1},
    users={"": 1},
    hosts=[HostSample(host="10.1.0.1", tag="", up=True, weight=100, users=1)],
    moves={"moved": 1},
    flush_programs={"done": 1},
    kicks={"done": 1},
    ring_members={"in_ring": 1},
    ring_messages={("Ping", "in"): 1},
    ring_forged={"frame": 1, "proof": 1},
    certificate_ends={"ring.crt": 1.0},
    differences={"version": 1},
    store_errors={"write": 1},
    snapshot_up=True,
    store_swept={"users": 1},
    connections={"login": 1},
    connections_refused={("admin", "all"): 1},
    accept_pauses={"login": 1},
    clock_skew={"10.0.0.2:9090": 0.0},
    stamps_clipped={"ring": 1},
)


def given() -> dict[str, set[str]]:
    """Return all samples of a page with every metric, and their labels."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(render(FULL).decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def wrong(expression: str, more_labels: Set[str] = frozenset()) -> list[str]:
    """Return the names in an expression that `/metrics` does not give. `more_labels`: labels that its result
    must have."""
    page = given()
    named = METRIC.findall(expression)
    unknown = [name for name, _ in named if name not in page]
    allowed = set(BY_SCRAPE).union(*(page.get(name, set()) for name, _ in named))
    if re.search(r"\bup\b", expression):
        allowed |= OF_PROMETHEUS["up"]
    elif not named:
        unknown.append(f"no metric in {expression}")
    used = set(more_labels)
    for _, selector in named:
        used |= set(re.findall(r"([a-z_]+) *(?:=~|!=|!~|=)", selector))
    for group in GROUPED.findall(expression):
        used |= {label.strip() for label in group.split(",")}
    return unknown + sorted(used - allowed)


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def test_the_rules_name_metrics_and_labels_of_the_page() -> None:
    text = RULES.read_text()
    rules = re.findall(r"alert: (\w+)\n +expr: (.*)\n((?: {8}.*\n)+)", text)
    assert len(rules) == text.count("alert:")
    found = {name: wrong(expr, set(re.findall(r"\$labels\.(\w+)", more))) for name, expr, more in rules}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_names_metrics_and_labels_of_the_page(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert wrong(target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))) == []


def test_panels_have_different_numbers_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        places = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not taken & places
        assert at["x"] + at["w"] <= 24
        taken |= places
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_an_unknown_metric_and_an_unknown_label_are_found() -> None:
    assert wrong("rate(director_logins_total[5m])") == ["director_logins_total"]
    assert wrong('sum by (user) (director_host_up{colour="red"})') == ["colour", "user"]


@pytest.mark.parametrize("command", [["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]])
def test_promtool_accepts_the_rules(command: list[str]) -> None:
    needs("promtool")
    done = subprocess.run(
        ["promtool", *command],
        cwd=RULES.parent,
        env={"PATH": SEARCH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
