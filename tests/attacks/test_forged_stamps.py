"""A ring member sends records with the highest possible stamps: real directors and Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from director.core.placement.addresses import host_id
from director.core.placement.users import LATEST, User, pack
from director.core.protocol.messages import HostRow, Hosts, MemberRow, Members, Users
from director.types import HostId, Stamp, UserKey
from tests.e2e.conftest import new_folder
from tests.e2e.peers import Stranger
from tests.e2e.processes import DirectorProcess, Directors, until
from tests.needs import needs
from tests.servers import RedisServer

FIRST, TAKEN = "127.0.55.31", "127.0.55.33"


@pytest.fixture
def ring() -> Iterator[Directors]:
    needs("redis-server")
    with new_folder() as folder, RedisServer() as redis:
        state = f"unix://{redis.socket}"
        with Directors(folder, first=FIRST, state=state) as directors:
            directors.wait_whole()
            directors[2].kill()
            for director in directors.all[:2]:
                director.wait_whole(2)
            yield directors


def clipped(director: DirectorProcess, source: str) -> int:
    page = director.request("GET", "/metrics")[1].decode()
    found = re.search(rf'^director_stamps_clipped_total{{source="{source}"}} (\S+)$', page, re.M)
    return int(float(found[1])) if found else 0


def ends_of_links(ring: Directors) -> list[str]:
    """Return the log lines about links between the two running directors."""
    members = [director.member for director in ring.all[:2]]
    return [
        line
        for d in ring.all[:2]
        for line in d.all_logged("ring_link_closed")
        if any(m in line for m in members)
    ]


@pytest.mark.shows("A-51")
def test_a_row_with_the_highest_stamp_from_a_neighbour_stops_no_operator(ring: Directors) -> None:
    first, second = ring.all[:2]
    changed, absent, *_ = [address for address, *_ in first.hosts()]
    links = ends_of_links(ring)
    rows = [
        HostRow(changed, "", True, LATEST, "gold", LATEST, 3, LATEST, False, LATEST),
        HostRow(absent, "", False, LATEST, "", LATEST, 100, LATEST, True, LATEST),
    ]
    alice = User(UserKey(7 << 32 | 1), HostId(host_id(changed)), Stamp(LATEST), LATEST, 0)
    with Stranger(first.member, source=TAKEN) as liar:
        liar.greet(ring[2].member)
        liar.say([Hosts(rows), Members([MemberRow("127.0.55.99:9090", True, LATEST)]), Users(pack([alice]))])
        until(lambda: clipped(first, "ring") >= 4, what=first.log[-2000:])
    (line, *_) = first.wait_logged("stamps_clipped", "source=ring")
    assert f"peer={ring[2].member}" in line

    for command in (
        ("update", changed, "60"),
        ("up", changed),
        ("add", absent),
        ("ring", "remove", "127.0.55.99:9090"),
    ):
        done = second.command(*command, "--reason", "test")
        assert done.returncode == 0, done.stderr

    def expected(director: DirectorProcess) -> bool:
        hosts = {address: rest for address, *rest in director.hosts()}
        return hosts[changed] == ["gold", 60, True] and absent in hosts

    for director in (first, second):
        until(lambda director=director: expected(director), what=str(director.hosts()))
    assert ends_of_links(ring) == links
    assert clipped(second, "ring") == 0  # stamps that are passed on are within the bound

    for director in (first, second):
        assert director.stop() == 0
    for director in (first, second):
        director.start()
    for director in (first, second):
        director.wait_whole(2)
        assert expected(director)
        assert director.all_logged("store_document_damaged") == director.all_logged("clock_is_behind") == []
        assert clipped(director, "store") == clipped(director, "ring") == 0
        assert [
            member for member in director.get("/v1/ring")["members"] if member["address"] == "127.0.55.99"
        ] == []
