"""The store's tools beside a running director."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from director.core.placement.hashing import UserHash
from director.core.placement.users import BUCKET_SHIFT
from tests.e2e.processes import Auth, Client, DirectorProcess, until
from tests.servers import RedisServer, free_port

USERS = [f"user{number}" for number in range(200)]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="e2e-") as name:
        yield Path(name)


def serving(folder: Path, state: str) -> DirectorProcess:
    return DirectorProcess(folder / "d1", "127.0.24.1", free_port(), [], state=state).start()


def exported(director: DirectorProcess) -> dict[str, str]:
    """Return the host of each user, from an export of the store."""
    ran = director.command("state", "export", "-")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return {line["name"]: line["host"] for line in lines if line["type"] == "user" and "name" in line}


def stored(director: DirectorProcess) -> bool:
    info = json.loads(director.command("state", "info", "--json").stdout)
    return bool(info["contents"]) and info["contents"]["users"] == len(USERS)


def test_a_store_is_repaired_while_its_director_runs_and_no_pin_is_lost(folder: Path) -> None:
    with RedisServer() as server, closing(serving(folder, server.url)) as director:
        with Auth(director.auth_path):
            director.wait_ready()
            with closing(Client(director.login)) as client:
                before = client.ask(USERS)
            assert director.command("pin", "user7", "127.0.3.2").returncode == 0
            until(lambda: stored(director), what="users in the store")
            number = UserHash().key(b"user7") >> BUCKET_SHIFT
            with closing(Redis(unix_socket_path=str(server.socket))) as client_of_redis:
                client_of_redis.append(f"dd:{{u{number >> 6:02x}}}{number:03x}", b"cut")
            found = director.command("state", "verify")
            assert found.returncode == 65, found
            assert f"users, bucket {number}: 3 bytes after the last whole record" in found.stdout
            assert director.command("state", "verify", "--fix").returncode == 0
            assert director.command("state", "verify").returncode == 0
            with closing(Client(director.login)) as client:
                after = client.ask(USERS)
        assert director.stop() == 0
        assert after == before | {"user7": "127.0.3.2"}
        assert exported(director) == after


def test_a_director_that_runs_is_backed_up_with_one_command_and_comes_back_in_redis(folder: Path) -> None:
    with closing(serving(folder, "sqlite:///state.db")) as director:
        with Auth(director.auth_path):
            director.wait_ready()
            with closing(Client(director.login)) as client:
                before = client.ask(USERS)
            assert director.command("pin", "user7", "127.0.3.2").returncode == 0
            before |= {"user7": "127.0.3.2"}
            until(lambda: stored(director), what="users in the store")
            backup = str(folder / "backup.jsonl")
            for command in (["state", "export", backup], ["state", "info"], ["state", "verify"]):
                looked = director.command(*command)
                assert (looked.returncode, looked.stderr) == (0, "")
            assert director.command("migrate", "--dry-run").returncode == 0
            refused = director.command("state", "import", backup)
            assert (refused.returncode, f"is in use by process {director.pid}" in refused.stderr) == (
                69,
                True,
            )
            assert director.stop() == 0
        with RedisServer() as server:
            director.config.write_text(director.config.read_text().replace("sqlite:///state.db", server.url))
            assert director.command("state", "import", backup).returncode == 0
            director.start()
            with Auth(director.auth_path):
                director.wait_ready()
                until(lambda: director.users() == len(USERS))
                with closing(Client(director.login)) as client:
                    assert client.ask(USERS) == before
