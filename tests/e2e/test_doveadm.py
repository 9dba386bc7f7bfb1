"""Dovecot 2.3's own `doveadm director` at a real ring of this project."""

from __future__ import annotations

import re

from director.demo.clients import login_imap
from director.demo.cluster import Cluster
from tests.e2e.stock import doveadm_director

NAMES = (
    "director ip, port, type, last failed, status, ping ms, "
    "input, output, buffered, buffered peak, last read, last write"
)


def lines_of(cluster: Cluster, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    result = doveadm_director(cluster.proxies[0], *arguments, options=options)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_ring_status_shows_every_director_of_the_ring_as_dovecot_2_3_does(cluster: Cluster) -> None:
    heading, *rows = lines_of(cluster, "ring", "status", options=("-f", "tab"))
    shown = [row.split("\t") for row in rows]
    assert heading == NAMES.replace(", ", "\t")
    assert [row[0] for row in shown] == [proxy.address for proxy in cluster.proxies]
    assert [(row[2], row[4]) for row in shown] == [
        ("self", "ring synced"),
        ("right", "synced"),
        ("left", "synced"),
    ]
    assert all(re.fullmatch(r"\d+", figure) for row in shown[1:] for figure in row[5:10])


def test_doveadm_shows_the_host_of_a_login(cluster: Cluster) -> None:
    login_imap(cluster.proxies[1].address, cluster.ports.imap, "doris")
    (host,) = [user["host"] for user in cluster.directors[1].ask("map") if user["name"] == "doris"]
    current, *_ = lines_of(cluster, "status", "doris")
    assert re.fullmatch(rf"Current: {re.escape(host)} \(expires \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\)", current)
