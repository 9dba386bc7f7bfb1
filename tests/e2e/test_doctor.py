"""`director doctor` beside real Dovecot: a correct proxy has no findings, and each fault has its own."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from director.demo.cluster import Cluster
from director.demo.dovecot import Programs, Proxy
from director.demo.ports import addresses, free_ports
from director.demo.settings import ALL_PROTOCOLS
from director.net import keeperlink
from tests.e2e.conftest import new_folder

PROXY, BACKENDS = "127.0.54.11", "127.0.54.21"
BROKEN = {
    "2.3": (
        ("executable = imap-login director/login", "executable = imap-login", "login_socket"),
        ("login_proxy_notify_path = director/proxy-notify", "", "notify"),
        ("nopassword=y proxy=y", "nopassword=y", "passdb"),
        ("lmtp_proxy = yes", "lmtp_proxy = no", "lmtp_proxy"),
    ),
    "2.4": (
        ("login_socket_path = director/login", "", "login_socket"),
        ("login_proxy_notify_path = director/proxy-notify", "", "notify"),
        ("restart_request_count = unlimited", "restart_request_count = 1", "login_processes"),
    ),
}


@pytest.fixture(scope="module")
def cluster(programs: Programs) -> Iterator[Cluster]:
    """One director, its proxy, two backends."""
    ports = free_ports([PROXY, *addresses(BACKENDS, 2)], [PROXY])
    with (
        new_folder(programs) as folder,
        Cluster(
            folder / "c",
            directors=1,
            backends=2,
            ports=ports,
            first_proxy=PROXY,
            first_backend=BACKENDS,
            programs=programs,
            protocols=ALL_PROTOCOLS,
        ) as cluster,
    ):
        yield cluster


def doveconf(proxy: Proxy, text: str = "") -> str:
    """Return what doveconf prints of the proxy's configuration, or of `text` in its place."""
    file = proxy.config
    if text:
        file = proxy.folder / "broken.conf"
        file.write_text(text)
    inside = proxy.programs.inside
    command = proxy.programs.command("doveconf", "-a", "-c", str(inside(file)))
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return printed.replace(f"base_dir = {inside(proxy.run)}\n", f"base_dir = {proxy.run}\n")


def examined(cluster: Cluster, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the findings of the first director's doctor, except hints and checks that passed."""
    result = cluster.directors[0].command("doctor", "--json", *arguments)
    assert result.returncode == code, result
    return [
        finding for finding in json.loads(result.stdout)["findings"] if finding["level"] not in ("ok", "hint")
    ]


@contextmanager
def configured(cluster: Cluster, text: str = "") -> Iterator[str]:
    """Write a file with the output of doveconf, and return its path."""
    file = cluster.folder / "doveconf.txt"
    file.write_text(doveconf(cluster.proxies[0], text))
    yield str(file)


def test_nothing_is_wrong_with_a_proxy_of_the_demo(cluster: Cluster) -> None:
    with configured(cluster) as file:
        assert examined(cluster, "--doveconf", file) == []


@pytest.fixture
def doveconf_here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the command `doveconf` by that of the release, with paths as they are outside of its root."""
    proxy = cluster.proxies[0]
    printed = cluster.folder / "printed.txt"
    printed.write_text(doveconf(proxy))
    script = cluster.folder / "bin" / "doveconf"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"#!/bin/sh\nexec cat {printed}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("doveconf_here")
def test_the_sockets_of_a_running_proxy_have_no_findings(cluster: Cluster) -> None:
    proxy = cluster.proxies[0]
    assert examined(cluster, "--conf", str(proxy.config)) == []
    result = cluster.directors[0].command("doctor", "--all", "--user", "dagmar", "--conf", str(proxy.config))
    words = " ".join(result.stdout.split())
    assert f"ok {proxy.run}/login/director/login: a process listens" in words
    assert f"ok {proxy.run}/login/director/proxy-notify: a process reads it" in words
    assert "ok dagmar goes to 127." in words
    channel = {"2.3": "ipc", "2.4": "anvil"}[proxy.programs.release]
    assert f"ok {channel}: {proxy.run}/{channel}" in words


@pytest.mark.usefixtures("doveconf_here")
def test_a_dovecot_that_does_not_run_is_found_by_its_sockets(cluster: Cluster) -> None:
    director, proxy = cluster.directors[0], cluster.proxies[0]
    proxy.stop()
    try:
        director.command("kick", "dagmar")
        findings = examined(cluster, "--conf", str(proxy.config), code=78)
    finally:
        proxy.start()
        director.restart()
    (kicks,) = [finding for finding in findings if finding["check"] == "kicks"]
    assert kicks["found"] == "1 of 1 requests to end sessions failed since the start"
    findings.remove(kicks)
    assert {finding["check"] for finding in findings} == {"auth", "auth_userdb", "kick_channel"}
    assert {tuple(finding["fix"]) for finding in findings} == {("systemctl start dovecot",)}


def test_each_mistake_in_dovecots_configuration_is_found(
    cluster: Cluster,
) -> None:
    proxy = cluster.proxies[0]
    for right, wrong, check in BROKEN[proxy.programs.release]:
        text = proxy.config.read_text()
        assert right in text
        with configured(cluster, text.replace(right, wrong, 1)) as file:
            root_only = check == "login_processes"  # a director that is root does not need it
            (finding,) = examined(cluster, "--doveconf", file, code=0 if root_only else 78)
            assert finding["check"] == check
            assert finding["fix"]


@pytest.mark.parametrize("programs", ["2.3"], indirect=True)
def test_a_socket_that_login_processes_may_not_use_is_found(cluster: Cluster) -> None:
    proxy = cluster.proxies[0]
    path = proxy.run / "login/director/login"
    mode = stat.S_IMODE(path.stat().st_mode)
    os.chmod(path, 0o600)
    try:
        (finding,) = examined(cluster, "--conf", str(proxy.config), code=78)
    finally:
        os.chmod(path, mode)
    assert (finding["check"], finding["found"]) == ("login", f"{path} has mode 0600")


@pytest.mark.parametrize("programs", ["2.3"], indirect=True)
def test_a_folder_that_login_processes_may_not_enter_is_found(cluster: Cluster) -> None:
    proxy = cluster.proxies[0]
    folder = proxy.run / "login/director"
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o700)
    try:
        (finding,) = examined(cluster, "--conf", str(proxy.config), code=78)
    finally:
        folder.chmod(mode)
    assert (finding["check"], finding["fix"]) == ("login_folder", [f"chmod 0755 {folder}"])


@pytest.mark.parametrize("programs", ["2.3"], indirect=True)
@pytest.mark.parametrize("keeper_lives", [True, False])
def test_a_director_that_does_not_run_is_found_by_the_sockets_it_leaves(
    cluster: Cluster, keeper_lives: bool
) -> None:
    director, proxy = cluster.directors[0], cluster.proxies[0]
    keeper = keeperlink.status(str(proxy.run / "director-keeper")).process
    director.kill()
    try:
        if not keeper_lives:
            os.kill(keeper, signal.SIGKILL)
        findings = examined(cluster, "--conf", str(proxy.config), code=78)
    finally:
        director.start()
        director.wait_ready()
    kept_sockets = set() if keeper_lives else {"login", "userdb", "notify"}
    assert {finding["check"] for finding in findings} == {"admin", "answers"} | kept_sockets
    assert {finding["level"] for finding in findings} == {"fault"}
    notify_findings = [finding["found"] for finding in findings if finding["check"] == "notify"]
    path = f"{proxy.run}/login/director/proxy-notify"
    assert notify_findings == ([] if keeper_lives else [f"{path}: no process has it open"])


def test_a_missing_file_is_an_error_and_not_a_proxy_without_problems(cluster: Cluster) -> None:
    result = cluster.directors[0].command("doctor", "--doveconf", str(cluster.folder / "none"))
    assert (result.returncode, result.stdout) == (65, "")
    assert "No such file" in result.stderr
