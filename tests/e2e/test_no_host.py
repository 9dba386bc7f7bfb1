"""Commands that would leave users without a host: refused with their number, unless --force."""

from __future__ import annotations

from pathlib import Path

import pytest

from director.errors import EX_REFUSED
from tests.e2e.processes import Client, Directors, until

HOST, OTHER = "127.0.3.1", "127.0.3.2"
NAMES = [f"user{number}" for number in range(20)]
COMMANDS = [("drain", HOST), ("flush", HOST), ("tag", HOST, "gold"), ("remove", HOST), ("update", HOST, "0")]


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_users_of_the_last_usable_host_are_not_moved(folder: Path, command: tuple[str, ...]) -> None:
    backends = [f"{HOST}-{OTHER}"]
    with Directors(folder, first="127.0.89.11", count=1, each=[{"backends": backends}]) as directors:
        directors.wait_whole()
        director = directors[0]
        with Client(director.login) as client:
            client.ask(NAMES)
        users = {host["address"]: host["users"] for host in director.get("/v1/hosts")}
        assert director.command("down", OTHER).returncode == 0
        if command[0] == "flush":
            assert director.command("down", HOST).returncode == 0
        for options in ((), ("--dry-run",)):
            refused = director.command(*command, *options)
            assert refused.returncode == EX_REFUSED, refused.stderr
            assert f"{users[HOST]} users would be left without a host" in refused.stderr
            assert "or give --force" in refused.stderr
        assert director.hosts()[0][:3] == (HOST, "", 100)
        assert director.get("/v1/hosts")[0]["users"] == users[HOST]
        assert director.command(*command, "--force").returncode == 0
        if command[0] != "update":
            until(lambda: {h["address"]: h["users"] for h in director.get("/v1/hosts")}.get(HOST, 0) == 0)


@pytest.mark.parametrize("options", [(), ("--exec",)], ids=["reload", "exec"])
def test_a_reload_that_removes_the_last_usable_host_of_a_pool_warns(
    folder: Path, options: tuple[str, ...]
) -> None:
    """The reload is carried out, because the file is the operator's decision."""
    warning = (
        "director: warning: the pool gold loses its last usable host: its new users wait "
        "30 s and fail temporarily\n"
    )
    with Directors(folder, first="127.0.89.21", count=1, each=[{"backends": [HOST]}]) as directors:
        directors.wait_whole()
        director = directors[0]
        before = director.config.read_text()
        director.config.write_text(before.replace(f'"{HOST}"', f'"{HOST}", "{OTHER}@gold"'))
        added = director.command("reload", *options)
        assert (added.returncode, added.stderr) == (0, "")
        until(lambda: len(director.hosts()) == 2, what=director.log)
        director.config.write_text(before)
        for more in (("--dry-run",), ()):
            done = director.command("reload", *options, *more)
            assert (done.returncode, done.stderr) == (0, warning), done
        until(lambda: len(director.hosts()) == 1, what=director.log)
        assert director.wait_logged("pool_unusable", "tag=gold")
        assert director.command("reload", *options).stderr == ""
