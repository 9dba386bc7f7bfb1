"""Opening and giving back what others connect to: real sockets and FIFOs in a folder of their own."""

from __future__ import annotations

import os
import pwd
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from director.errors import EX_CONFIG, ListenError
from director.net.listen import Fifo, adopt_fifo, adopt_listener, open_fifo, tcp_listener, unix_listener
from tests.needs import needs_root


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left_behind(path: Path) -> None:
    """A socket file whose process died."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.fixture(autouse=True)
def _strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_a_unix_socket_answers_as_soon_as_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(unix_listener("listen.login", str(path), mode=0o600)) as listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        assert listener.where == str(path)
        assert not listener.socket.getblocking()
        assert not os.get_inheritable(listener.socket.fileno())


@pytest.mark.parametrize("mode", [0o666, 0o600, 0o660])
def test_a_socket_has_the_configured_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    with closing(unix_listener("listen.login", str(tmp_path / "s"), mode=mode)):
        assert mode_of(tmp_path / "s") == mode


def test_missing_folders_are_made_with_access_for_all_users(tmp_path: Path) -> None:
    path = tmp_path / "login" / "director" / "login"
    with closing(unix_listener("listen.login", str(path), mode=0o666)):
        assert mode_of(path.parent) == mode_of(path.parent.parent) == 0o755


def test_a_socket_has_the_configured_owner_and_group(tmp_path: Path) -> None:
    me = pwd.getpwuid(os.getuid())
    with closing(unix_listener("l", str(tmp_path / "s"), mode=0o600, user=me.pw_name, group=str(me.pw_gid))):
        status = (tmp_path / "s").stat()
    assert (status.st_uid, status.st_gid) == (me.pw_uid, me.pw_gid)


@pytest.mark.parametrize(
    ("user", "group", "complaint"),
    [
        ("no-such-user", "", "no user"),
        ("", "no-such-group", "no group"),
        ("9" * 5000, "", "no user"),
        ("4294967295", "", "no user"),
        ("a\0b", "", "no user"),
        ("", "9" * 5000, "no group"),
        ("", "a\0b", "no group"),
    ],
)
def test_an_unknown_owner_is_refused_before_anything_is_created(
    tmp_path: Path, user: str, group: str, complaint: str
) -> None:
    with pytest.raises(ListenError, match=complaint):
        unix_listener("listen.login", str(tmp_path / "s"), mode=0o600, user=user, group=group)
    assert not (tmp_path / "s").exists()


def test_a_socket_whose_process_died_is_replaced(tmp_path: Path) -> None:
    left_behind(tmp_path / "s")
    with closing(unix_listener("listen.login", str(tmp_path / "s"), mode=0o600)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            assert client.getpeername() == str(tmp_path / "s")


def test_a_socket_that_another_process_serves_is_left_alone_and_named(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with closing(unix_listener("listen.login", path, mode=0o600)):
        with pytest.raises(ListenError, match="another process listens there") as caught:
            unix_listener("listen.userdb", path, mode=0o600)
        assert (tmp_path / "s").exists()
    assert (caught.value.listener, caught.value.where) == ("listen.userdb", path)
    assert caught.value.exit_code == EX_CONFIG


def test_a_socket_whose_queue_is_full_is_served(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with closing(unix_listener("l", path, mode=0o600, backlog=0)):
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(path)
            with pytest.raises(ListenError, match="another process listens"):
                unix_listener("l", path, mode=0o600)


def test_a_datagram_socket_in_the_way_is_not_removed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        with pytest.raises(ListenError, match="another process listens"):
            unix_listener("l", str(tmp_path / "s"), mode=0o600)


@pytest.mark.parametrize("opener", [unix_listener, open_fifo])
def test_a_file_in_the_way_is_not_removed(tmp_path: Path, opener: Callable[..., object]) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ListenError, match="remove it, or configure another path"):
        opener("listen.login", str(tmp_path / "s"), mode=0o600)
    assert (tmp_path / "s").read_text() == "precious"


def test_a_dead_socket_of_dovecots_director_is_replaced_by_the_folder_that_is_needed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "login/director"
    path.parent.mkdir()
    left_behind(path)
    with closing(unix_listener("login", str(path / "login"), mode=0o666)):
        assert path.is_dir()


def test_a_served_socket_where_a_folder_is_needed_is_left_and_named(tmp_path: Path) -> None:
    path = tmp_path / "login/director"
    with (
        closing(unix_listener("old", str(path), mode=0o666)),
        pytest.raises(ListenError, match=f"{path}: another process listens there"),
    ):
        unix_listener("login", str(path / "login"), mode=0o666)


def test_a_path_that_leads_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ListenError, match="is a file, not a folder"):
        unix_listener("l", str(tmp_path / "file" / "s"), mode=0o600)


def test_a_path_longer_than_the_kernel_takes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="too long"):
        unix_listener("l", str(tmp_path / ("x" * 120)), mode=0o600)


PROJECT = Path(__file__).parents[3]
AS_ANOTHER_USER = """
import os, sys
from director.errors import ListenError
from director.net import listen
os.getuid() or os.setuid(65534)
try:
    getattr(listen, sys.argv[1])("listen.login", sys.argv[2], mode=0o600)
except ListenError as exc:
    print(exc, file=sys.stderr)
    sys.exit(exc.exit_code)
"""


@pytest.mark.parametrize("opener", ["unix_listener", "open_fifo"])
def test_a_folder_without_write_permission_is_reported_with_the_uid(tmp_path: Path, opener: str) -> None:
    (tmp_path / "login").mkdir(0o500)
    command = [sys.executable, "-c", AS_ANOTHER_USER, opener, str(tmp_path / "login" / "s")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=15, cwd=PROJECT)
    assert done.returncode == EX_CONFIG
    assert re.search(f"listen.login: cannot listen on {tmp_path}/login/s: uid [0-9]+ may not", done.stderr)


def test_the_own_socket_is_removed_when_it_is_closed(tmp_path: Path) -> None:
    listener = unix_listener("l", str(tmp_path / "s"), mode=0o600)
    listener.close()
    listener.close()
    assert not (tmp_path / "s").exists()


def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = unix_listener("l", str(path), mode=0o600)
    path.unlink()
    with closing(unix_listener("l", str(path), mode=0o600)):
        listener.close()
        assert path.exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_tcp_socket_answers_as_soon_as_it_is_opened(address: str) -> None:
    with closing(tcp_listener("ring.listen", address, 0)) as listener:
        host, port = listener.socket.getsockname()[:2]
        with socket.create_connection((host, port), timeout=5) as client:
            assert client.getpeername()[:2] == (address, port)


def test_a_tcp_socket_in_use_is_named_with_what_to_do() -> None:
    with closing(tcp_listener("ring.listen", "127.0.0.1", 0)) as listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{port}: another process uses this port") as caught:
            tcp_listener("http.listen", "127.0.0.1", port)
    assert caught.value.listener == "http.listen"
    assert caught.value.exit_code == EX_CONFIG


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ListenError, match=r"203\.0\.113\.7:9: not an address of this machine"):
        tcp_listener("ring.listen", "203.0.113.7", 9)


def test_all_addresses_of_one_family_do_not_take_the_other_familys() -> None:
    with closing(tcp_listener("a", "::", 0)) as six:
        port = six.socket.getsockname()[1]
        with closing(tcp_listener("b", "127.0.0.1", port)) as four:
            assert four.socket.getsockname() == ("127.0.0.1", port)


def test_a_writer_of_the_fifo_never_waits_for_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "login" / "notify"
    with closing(open_fifo("listen.notify", str(path), mode=0o622)) as fifo:
        assert mode_of(path) == 0o622
        with path.open("wb", buffering=0) as writer:
            writer.write(b"alice\n")
        assert os.read(fifo.fd, 100) == b"alice\n"
        assert not os.get_blocking(fifo.fd)


def test_the_fifo_has_a_reader_also_when_its_writers_have_gone(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with closing(open_fifo("listen.notify", str(path), mode=0o666)) as fifo:
        path.open("wb").close()
        with pytest.raises(BlockingIOError):
            os.read(fifo.fd, 1)


def test_a_fifo_left_behind_is_used_again_because_writers_may_wait_for_it(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    os.mkfifo(path, 0o600)
    before = path.stat().st_ino
    fifo = open_fifo("listen.notify", str(path), mode=0o666)
    assert (path.stat().st_ino, mode_of(path)) == (before, 0o666)
    fifo.close()
    fifo.close()
    assert not path.exists()


def test_a_fifo_that_another_process_reads_is_shared_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    os.mkfifo(path, 0o600)
    holder = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    open_fifo("listen.notify", str(path), mode=0o666).close()
    os.close(holder)
    assert mode_of(path) == 0o600


def test_a_successors_fifo_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    fifo = open_fifo("listen.notify", str(path), mode=0o600)
    path.unlink()
    os.mkfifo(path)
    fifo.close()
    assert path.exists()


def test_an_inherited_socket_is_served_but_its_file_is_not_ours_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(str(path))
        systemd.listen()
        inherited = os.dup(systemd.fileno())
        os.set_inheritable(inherited, True)
        listener = adopt_listener("listen.login", inherited)
        assert listener.where == str(path)
        assert not os.get_inheritable(listener.socket.fileno())
        assert not listener.socket.getblocking()
        listener.close()
    assert path.exists()


def test_an_inherited_tcp_socket_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as systemd:
        with closing(adopt_listener("http.listen", os.dup(systemd.fileno()))) as listener:
            assert listener.where == f"127.0.0.1:{systemd.getsockname()[1]}"


def test_an_inherited_fifo_is_always_open_for_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    os.mkfifo(path)
    systemd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with closing(adopt_fifo("listen.notify", systemd)) as fifo:
        path.write_bytes(b"alice\n")
        assert os.read(fifo.fd, 100) == b"alice\n"
        with pytest.raises(BlockingIOError):
            os.read(fifo.fd, 1)
    assert path.exists()


def test_a_fifo_of_systemd_in_a_folder_that_user_dovecot_may_not_look_into_is_not_lost(
    tmp_path: Path,
) -> None:
    """`/run/dovecot/login` is for root and dovenull. The FIFO was told to be lost at each start."""
    needs_root("to look as another user")
    tmp_path.chmod(0o700)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    path.chmod(0o666)
    with closing(adopt_fifo("notify", os.open(path, os.O_RDONLY | os.O_NONBLOCK))) as fifo:
        assert not lost_for_another_user(fifo)
        path.unlink()
        os.mkfifo(path)
        assert lost_for_another_user(fifo)


def lost_for_another_user(fifo: Fifo) -> bool:
    os.seteuid(65534)
    try:
        return fifo.is_lost()
    finally:
        os.seteuid(0)


def test_an_inherited_descriptor_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (tmp_path / "file").open("rb") as file, socket.socket(socket.AF_UNIX) as not_listening:
        with pytest.raises(ListenError, match="not a listening socket"):
            adopt_listener("listen.login", os.dup(file.fileno()))
        with pytest.raises(ListenError, match="not a listening socket"):
            adopt_listener("listen.login", os.dup(not_listening.fileno()))
        with pytest.raises(ListenError, match="not a FIFO"):
            adopt_fifo("listen.notify", os.dup(file.fileno()))


def test_an_inherited_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(ListenError, match="not a listening socket"):
        adopt_listener("listen.login", 9999)
    with pytest.raises(ListenError, match="not a FIFO"):
        adopt_fifo("listen.notify", 9999)
