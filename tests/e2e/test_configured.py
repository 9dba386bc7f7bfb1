"""A new configuration file, given to one director after the other, with each store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.processes import BACKENDS, Client, DirectorProcess, Directors, until

FIRST = "127.0.57.11"
NEW = '"127.0.3.1-127.0.3.3", "127.0.3.9@gold"'
TABLE = [
    ("127.0.3.1", "", 100, True),
    ("127.0.3.2", "", 100, True),
    ("127.0.3.3", "", 100, True),
    ("127.0.3.9", "gold", 100, True),
]
USERS = [f"user{number}" for number in range(200)]


def give(director: DirectorProcess, servers: str = NEW) -> None:
    """Write another list of backends into the director's file."""
    text = director.config.read_text()
    before = text.index("mail_servers = [")
    end = text.index("\n", before)
    director.config.write_text(f"{text[:before]}mail_servers = [{servers}]{text[end:]}")


def restart(ring: Directors, number: int) -> None:
    assert ring[number].stop() == 0
    ring[number].start()
    ring.wait_whole()


def planned(director: DirectorProcess) -> list[tuple[str, str, str]]:
    result = director.command("plan", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return [
        (change["address"], change["what"], change["outcome"])
        for change in json.loads(result.stdout)["changes"]
    ]


def until_all_have(ring: Directors, table: list[tuple[str, str, int, bool]]) -> None:
    until(
        lambda: [director.hosts() for director in ring.all] == [table] * len(ring.all),
        what=f"{[director.hosts() for director in ring.all]} become {table}",
    )


@pytest.mark.shows("S-19")
def test_three_directors_restarted_one_by_one_with_a_new_file_end_with_the_new_table(
    folder: Path, state: str
) -> None:
    with Directors(folder, first=FIRST, state=state) as ring:
        ring.wait_whole()
        with Client(ring[0].login) as client:
            before = client.ask(USERS)
        give(ring[0])
        assert planned(ring[0]) == [("127.0.3.4", "host", "made"), ("127.0.3.9", "host", "made")]
        restart(ring, 0)
        until_all_have(ring, TABLE)
        assert planned(ring[0]) == []
        restart(ring, 1)  # still with the old file
        until_all_have(ring, TABLE)
        for number in (1, 2):
            give(ring[number])
            assert planned(ring[number]) == []
            restart(ring, number)
            until_all_have(ring, TABLE)
        until(lambda: sum(len(director.logged("configuration_change_applied")) for director in ring.all) >= 2)
        made = [line for director in ring.all for line in director.all_logged("configuration_change_applied")]
        assert ["127.0.3.9" in made[0], "127.0.3.4" in made[1], len(made)] == [True, True, 2]
        with Client(ring[2].login) as client:
            after = client.ask(USERS)
        stayed = {user: host for user, host in before.items() if host != "127.0.3.4"}
        assert stayed.items() <= after.items()
        assert "127.0.3.4" not in after.values()


@pytest.mark.shows("S-19")
def test_an_operator_between_two_restarts_with_a_new_file_has_the_last_word(folder: Path, state: str) -> None:
    with Directors(folder, first=FIRST, state=state) as ring:
        ring.wait_whole()
        give(ring[0])
        restart(ring, 0)
        until_all_have(ring, TABLE)
        ring[2].change("POST", "/v1/hosts", {"address": "127.0.3.4", "weight": 100})
        ring[2].change("DELETE", "/v1/hosts/127.0.3.9")
        expected = [*TABLE[:3], ("127.0.3.4", "", 100, True)]
        for number in (1, 2):
            give(ring[number])
            assert {outcome for *_, outcome in planned(ring[number])} == {"kept"}
            restart(ring, number)
            until_all_have(ring, expected)


def test_all_directors_stopped_and_started_with_a_new_file_have_the_new_table(
    folder: Path, state: str
) -> None:
    with Directors(folder, first=FIRST, state=state) as ring:
        ring.wait_whole()
        ring.stop()
        for director in ring.all:
            give(director)
        ring.start()
        ring.wait_whole()
        until_all_have(ring, TABLE)
        give(ring[0], f'"{BACKENDS[0]}"')
        assert planned(ring[0]) == [("127.0.3.4", "host", "made"), ("127.0.3.9", "host", "made")]
        restart(ring, 0)
        until_all_have(ring, [*TABLE[:3], ("127.0.3.4", "", 100, True)])
