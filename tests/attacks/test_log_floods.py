"""Unknown clients send nonsense as often as they can: the log stays short, and counts the lines that it
leaves out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from director.service.log import REPEATED, REPEATED_EVERY
from tests.e2e.processes import until
from tests.fuzz.sockets import Live

TIMES = 2 * REPEATED
NONSENSE = {
    "admin-tcp": b"HELO x\n",
    "socketmap-tcp": b"x:\n",
    "authreply": b"HELO x\n",
    "http": b"\0\0 no request\r\n\r\n",
    "ring": b"\xff\xff\xff\xff",
}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    live = Live()
    yield live
    live.close()


@pytest.mark.shows("A-11")
@pytest.mark.parametrize("place", NONSENSE)
def test_unknown_clients_that_send_nonsense_do_not_fill_the_log(live: Live, place: str) -> None:
    already = len(live.director.complete_log().splitlines())
    reloads = len(live.director.logged("configuration_reloaded"))
    began = time.monotonic()
    for _ in range(TIMES):
        with live.connect(place) as sock:
            sock.sendall(NONSENSE[place])
            sock.settimeout(1.0)
            while sock.recv(65536):
                pass
    windows = 1 + (time.monotonic() - began) // REPEATED_EVERY
    assert live.director.request("POST", "/v1/reload", {})[0] == 200
    until(lambda: len(live.director.logged("configuration_reloaded")) > reloads)  # logged after all of it
    lines = live.director.log.splitlines()[already:]
    events = Counter(line.partition("event=")[2].split(" ")[0] for line in lines)
    assert sum(events.values()) >= 1
    assert max(events.values()) <= REPEATED * windows, events
