"""A ring over TLS, of real processes, and directors that it refuses."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.e2e.peers import Stranger, hello
from tests.e2e.processes import Client, DirectorProcess, Directors, until

USERS = [f"user{number}" for number in range(300)]
FIRST = "127.0.2.41"
ADDRESSES = ["127.0.2.41", "127.0.2.42", "127.0.2.43"]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")


def with_tls(authority: Authority, address: str) -> dict[str, Any]:
    """Return the settings of a director that uses TLS."""
    cert, key, ca = authority.pems(address)
    return {"settings": {"ring": f'tls = {{cert = "{cert}", key = "{key}", ca = "{ca}"}}'}}


def hosts_of(director: DirectorProcess) -> dict[str, str]:
    with Client(director.login) as client:
        return client.ask(USERS)


def test_a_ring_of_three_over_tls_is_in_sync_and_takes_back_a_director_that_was_stopped(
    folder: Path, authority: Authority
) -> None:
    each = [with_tls(authority, address) for address in ADDRESSES]
    with Directors(folder, first=FIRST, each=each) as ring:
        ring.wait_whole()
        hosts = hosts_of(ring[0])
        assert hosts_of(ring[1]) == hosts
        assert hosts_of(ring[2]) == hosts
        with Stranger(ring[0].member, source=ADDRESSES[2]) as stranger:
            stranger.say([hello({"member": ring[2].member})])
            assert "does not use TLS" in stranger.good_bye()
        assert ring[1].stop() == 0
        ring[0].wait_whole(2)
        ring[1].start()
        ring.wait_whole()
        ring[2].send(signal.SIGKILL)
        ring[2].wait()
        ring[0].wait_whole(2)
        assert hosts_of(ring[1]) == hosts
        for director in ring.all:
            assert director.all_logged("internal_error") == []


def test_a_director_with_a_certificate_of_another_ca_is_refused_and_both_sides_say_why(
    folder: Path, authority: Authority, other_authority: Authority
) -> None:
    authorities = [authority, authority, other_authority]
    each = [with_tls(ca, address) for ca, address in zip(authorities, ADDRESSES, strict=True)]
    with Directors(folder, first=FIRST, each=each) as ring:
        for director in ring.all[:2]:
            director.wait_whole(2)
        refused = f"the certificate of {ADDRESSES[2]} is refused: ring.tls.ca has not signed it"
        until(
            lambda: any(director.logged("ring_tls_failed", refused) for director in ring.all[:2]),
            what=ring[0].log + ring[1].log,
        )
        until(partial(ring[2].logged, "ring_tls_failed", "ring.tls.ca has not signed it"), what=ring[2].log)
        assert ring[2].get("/v1/ring")["ring"] in ([], [ring[2].member])
        assert hosts_of(ring[0]) == hosts_of(ring[1])


def test_a_director_without_tls_is_refused_and_both_sides_say_why(folder: Path, authority: Authority) -> None:
    each = [*(with_tls(authority, address) for address in ADDRESSES[:2]), {}]
    with Directors(folder, first=FIRST, each=each) as ring:
        for director in ring.all[:2]:
            director.wait_whole(2)
        reason = f"{ADDRESSES[2]} does not use TLS"
        until(
            lambda: any(director.logged("ring_tls_failed", reason) for director in ring.all[:2]),
            what=ring[0].log + ring[1].log,
        )
        until(partial(ring[2].logged, "ring_link_closed", "does not use TLS"), what=ring[2].log)
        until(partial(ring[2].logged, "ring_link_closed", "uses TLS, this"), what=ring[2].log)
