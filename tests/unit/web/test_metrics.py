"""The Prometheus page, read back with Prometheus's own parser."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from director.service.metrics import Durations, HostSample, MetricsSample, render

NAMES = {
    "director_lookups": "counter",
    "director_users": "gauge",
    "director_host_users": "gauge",
    "director_host_up": "gauge",
    "director_host_weight": "gauge",
    "director_conflicts": "counter",
    "director_moves": "counter",
    "director_moves_in_progress": "gauge",
    "director_flush_programs": "counter",
    "director_kicks": "counter",
    "director_sessions_kicked": "counter",
    "director_kick_duration_seconds": "histogram",
    "director_claims": "counter",
    "director_waiting_refused": "counter",
    "director_users_not_remembered": "counter",
    "director_users_dropped_early": "counter",
    "director_users_limit": "gauge",
    "director_near_expiry_rounds": "counter",
    "director_ring_members": "gauge",
    "director_ring_false_departures": "counter",
    "director_ring_synced": "gauge",
    "director_ring_sync_duration_seconds": "histogram",
    "director_ring_messages": "counter",
    "director_ring_forged": "counter",
    "director_certificate_end_seconds": "gauge",
    "director_secrets_readable": "gauge",
    "director_files_unusable": "gauge",
    "director_directors_differ": "gauge",
    "director_unstored_changes": "gauge",
    "director_store_up": "gauge",
    "director_store_queue_entries": "gauge",
    "director_store_lag_seconds": "gauge",
    "director_store_errors": "counter",
    "director_store_swept": "counter",
    "director_store_sweeper": "gauge",
    "director_warm_start_duration_seconds": "gauge",
    "director_warm_start_ratio": "gauge",
    "director_sockets_kept": "gauge",
    "director_warm_start_users": "gauge",
    "director_clock_skew_seconds": "gauge",
    "director_stamps_clipped": "counter",
    "director_internal_errors": "counter",
    "director_log_dropped": "counter",
    "director_connections": "gauge",
    "director_connections_refused": "counter",
    "director_accept_pauses": "counter",
    "director_event_loop_lag_seconds": "gauge",
    "director_build_info": "gauge",
}


def snapshot(**measured: object) -> MetricsSample:
    return MetricsSample(version="0.1.0", python="3.11.2", compiled=True, **measured)  # type: ignore[arg-type]


def value(measured: MetricsSample, name: str, labels: Mapping[str, str] | None = None) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(render(measured).decode())
        for sample in family.samples
        if sample.name == name and sample.labels == (labels or {})
    ]
    assert len(found) == 1
    return found[0]


def test_every_metric_is_there_with_its_documented_name_also_when_nothing_happened() -> None:
    families = list(text_string_to_metric_families(render(snapshot()).decode()))
    assert {family.name: family.type for family in families} == NAMES
    assert len(families) == len(NAMES)


@pytest.mark.parametrize(
    ("measured", "name", "labels", "expected"),
    [
        (
            {"lookups": {("answered", "login"): 3}},
            "director_lookups_total",
            {"result": "answered", "protocol": "login"},
            3,
        ),
        ({"users": {"gold": 5}}, "director_users", {"tag": "gold"}, 5),
        ({"conflicts": 1}, "director_conflicts_total", {}, 1),
        ({"moves": {"superseded": 6}}, "director_moves_total", {"result": "superseded"}, 6),
        ({"moves_in_progress": 8}, "director_moves_in_progress", {}, 8),
        ({"flush_programs": {"failed": 5}}, "director_flush_programs_total", {"result": "failed"}, 5),
        ({"kicks": {"failed": 3}}, "director_kicks_total", {"result": "failed"}, 3),
        ({"sessions_kicked": 12}, "director_sessions_kicked_total", {}, 12),
        ({"near_expiry_rounds": 2}, "director_near_expiry_rounds_total", {}, 2),
        ({"ring_members": {"synced": 2}}, "director_ring_members", {"state": "synced"}, 2),
        ({"false_departures": 3}, "director_ring_false_departures_total", {}, 3),
        ({"ring_synced": True}, "director_ring_synced", {}, 1),
        (
            {"ring_messages": {("users", "in"): 9}},
            "director_ring_messages_total",
            {"type": "users", "direction": "in"},
            9,
        ),
        ({"ring_forged": {"frame": 3}}, "director_ring_forged_total", {"what": "frame"}, 3),
        ({"claims": 7}, "director_claims_total", {}, 7),
        ({"waiting_refused": 7}, "director_waiting_refused_total", {}, 7),
        ({"not_remembered": 7}, "director_users_not_remembered_total", {}, 7),
        ({"dropped_early": 7}, "director_users_dropped_early_total", {}, 7),
        ({"users_limit": 7}, "director_users_limit", {}, 7),
        ({"store_up": True}, "director_store_up", {}, 1),
        ({"store_queue": 4}, "director_store_queue_entries", {}, 4),
        ({"store_lag": 0.5}, "director_store_lag_seconds", {}, 0.5),
        ({"store_errors": {"swap": 2}}, "director_store_errors_total", {"operation": "swap"}, 2),
        ({"store_swept": {"users": 3}}, "director_store_swept_total", {"space": "users"}, 3),
        ({"store_sweeper": True}, "director_store_sweeper", {}, 1),
        ({"snapshot_up": False}, "director_snapshot_up", {}, 0),
        (
            {"snapshot_up": True, "snapshot_written": 1700000000},
            "director_snapshot_written_timestamp_seconds",
            {},
            1700000000,
        ),
        ({"warm_start_seconds": 0.25}, "director_warm_start_duration_seconds", {}, 0.25),
        ({"warm_start_users": 20_000}, "director_warm_start_users", {}, 20_000),
        ({"warm_start_part": 0.25}, "director_warm_start_ratio", {}, 0.25),
        ({"sockets_kept": True}, "director_sockets_kept", {}, 1.0),
        ({"stamps_clipped": {"ring": 2}}, "director_stamps_clipped_total", {"source": "ring"}, 2),
        (
            {"clock_skew": {"10.0.0.2:9090": -0.5}},
            "director_clock_skew_seconds",
            {"member": "10.0.0.2:9090"},
            -0.5,
        ),
        ({"loop_lag": 0.004}, "director_event_loop_lag_seconds", {}, 0.004),
        ({}, "director_build_info", {"version": "0.1.0", "python": "3.11.2", "compiled": "yes"}, 1),
    ],
)
def test_measured_values_are_shown(
    measured: dict[str, object], name: str, labels: dict[str, str], expected: float
) -> None:
    assert value(snapshot(**measured), name, labels) == expected


def test_a_host_has_its_users_weight_and_state() -> None:
    hosts = [HostSample("10.1.0.1", "gold", True, 50, 7), HostSample("10.1.0.2", "", False, 0, 0)]
    up = {"host": "10.1.0.1", "tag": "gold"}
    down = {"host": "10.1.0.2", "tag": ""}
    measured = snapshot(hosts=hosts)
    names = ["director_host_users", "director_host_up", "director_host_weight"]
    assert [value(measured, name, up) for name in names] == [7, 1, 50]
    assert [value(measured, name, down) for name in names] == [0, 0, 0]


def test_durations_are_counted_up_to_their_bounds() -> None:
    syncs = Durations(bounds=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 3.0):
        syncs.add(seconds)
    measured = snapshot(ring_syncs=syncs)
    name = "director_ring_sync_duration_seconds"
    counts = [value(measured, f"{name}_bucket", {"le": bound}) for bound in ("0.1", "1.0", "+Inf")]
    assert counts == [2, 3, 4]
    assert value(measured, f"{name}_count") == 4
    assert value(measured, f"{name}_sum") == pytest.approx(3.65)


def test_kicks_have_durations_of_their_own() -> None:
    kicks = Durations(bounds=(0.1,))
    kicks.add(0.05)
    measured = snapshot(kick_durations=kicks)
    assert value(measured, "director_kick_duration_seconds_count") == 1
    assert value(measured, "director_ring_sync_duration_seconds_count") == 0


def test_two_durations_do_not_share_their_counts() -> None:
    Durations().add(1.0)
    assert sum(Durations().counts) == 0


def test_counting_does_not_import_prometheus() -> None:
    program = "import sys, director.service.metrics; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
