"""The authreply socket of a running director, beside its login socket."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import pytest

from tests.e2e.processes import Client, DirectorProcess, Directors, connect

HELLO = b"VERSION\tdirector-authreply-client\t1\t0\n"


@pytest.fixture(scope="module")
def director(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectorProcess]:
    users = {"users": 'kick_delay = "1 s"'}
    with Directors(
        tmp_path_factory.mktemp("d"), first="127.0.70.9", count=1, state="memory:", settings=users
    ) as directors:
        directors[0].wait_ready()
        yield directors[0]


def completed(director: DirectorProcess, *lines: bytes) -> list[bytes]:
    """Return the answers to these lines, in the order in which they come."""
    with connect(director.run / "director-authreply") as sock, sock.makefile("rb") as stream:
        sock.sendall(HELLO + b"".join(line + b"\n" for line in lines))
        assert stream.readline() == b"VERSION\tdirector-authreply-server\t1\t0\n"
        return [stream.readline() for _ in lines]


def counted(director: DirectorProcess, result: str) -> float:
    _, text = director.request("GET", "/metrics")
    start = f'director_lookups_total{{protocol="authreply",result="{result}"}} '
    return sum(float(line[len(start) :]) for line in text.decode().splitlines() if line.startswith(start))


def test_a_reply_gets_the_host_of_a_login_and_is_counted(director: DirectorProcess) -> None:
    before = counted(director, "answered")
    (got,) = completed(director, b"OK\t1\tuser=lena\tproxy")
    with Client(director.login) as client:
        host = client.ask(["lena"])["lena"]
    assert got.startswith(f"OK\t1\tuser=lena\tproxy\tproxy_refresh=300\thost={host}\t".encode())
    assert counted(director, "answered") == before + 1


def test_a_reply_waits_while_its_user_is_moved_and_other_replies_pass(director: DirectorProcess) -> None:
    before = counted(director, "answered_later")
    with Client(director.login) as client:
        host = client.ask(["max"])["max"]
    other = "127.0.3.2" if host != "127.0.3.2" else "127.0.3.3"
    with connect(director.admin) as operator, operator.makefile("rb") as replies:
        operator.sendall(b"VERSION\tdirector-doveadm\t1\t0\nUSER-MOVE\tmax\t" + other.encode() + b"\n")
        assert [replies.readline() for _ in range(2)][1] == b"OK\n"
    got = completed(director, b"OK\t1\tuser=max\tproxy", b"FAIL\t2\tuser=max")
    assert got[0] == b"FAIL\t2\tuser=max\n"
    assert f"\thost={other}\t".encode() in got[1]
    assert counted(director, "answered_later") == before + 1


def test_only_the_owner_may_use_the_socket(director: DirectorProcess) -> None:
    assert stat.S_IMODE((director.run / "director-authreply").stat().st_mode) == 0o600


def test_a_password_in_a_refused_line_is_not_logged(director: DirectorProcess) -> None:
    with connect(director.run / "director-authreply") as sock:
        sock.sendall(b"OK\t1\tuser=lena\tproxy\tpass=hunter2\n")
        with sock.makefile("rb") as stream:
            assert stream.read() == b"VERSION\tdirector-authreply-server\t1\t0\n"
    assert len(director.wait_logged("authreply_client_refused")) == 1
    assert "hunter2" not in director.complete_log()


def test_the_socket_is_served_after_a_replacement_in_place(director: DirectorProcess) -> None:
    (before,) = completed(director, b"OK\t1\tuser=olga\tproxy")
    replaced = director.command("reload", "--exec")
    assert replaced.returncode == 0, replaced.stderr
    (after,) = completed(director, b"OK\t1\tuser=olga\tproxy")
    assert after == before
