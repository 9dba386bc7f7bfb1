"""Looks at this machine: files, sockets, processes, Dovecot's configuration. Decides nothing."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from director.doctor.facts import Backend, Facts, File, Keeper, ProcessUser, Settings, Unit, UnitUser
from director.doctor.systemd import units
from director.dovecot.doveconf import Doveconf, decoded, read
from director.errors import DirectorError, DoveconfError
from director.net import keeperlink
from director.records import StatusInfo
from director.service.configuration.accounts import Account, NoSuchAccount, account
from director.service.configuration.config import Config, DovecotConfig, ListenConfig, RingConfig, UsersConfig
from director.service.configuration.filecheck import check_file_as
from director.service.lifecycle import descriptors
from director.service.lifecycle.keeper import control_paths
from director.wire.tabs import escape

CONNECT_TIMEOUT = 2.0
DOVECONF_TIMEOUT = 20.0
SEARCH = os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin:/sbin"
PORTS = {"imap": 143, "imaps": 993, "pop3": 110, "pop3s": 995, "submission": 587, "lmtp": 24, "sieve": 4190}
SECRET = re.compile(r"\t[^\t=]*(?:pass|resp|secret|token)[^\t]*")
"""Fields of an answer that may be secret."""


def settings_of(
    users: UsersConfig, dovecot: DovecotConfig, listen: ListenConfig, ring: RingConfig
) -> Settings:
    return Settings(
        base_dir=dovecot.base_dir,
        login=listen.login.path,
        notify=listen.notify.path,
        userdb=listen.userdb.path,
        admin=listen.admin.path,
        auth=dovecot.auth_socket,
        auth_userdb=dovecot.userdb_socket,
        kick=dovecot.kick,
        ipc=dovecot.ipc_socket,
        anvil=dovecot.anvil_socket,
        ring_readable=ring.readable,
        username_hash=users.username_hash,
        separator=users.master_user_separator,
    )


def gather_facts(
    config: Config,
    dovecot: tuple[Doveconf | None, str],
    *,
    here: bool,
    status: StatusInfo | None,
    problem: str,
    version: str,
    skew: dict[str, float],
    kicks: dict[str, float],
) -> Facts:
    """Gather all facts. dovecot: its configuration, or why there is none; here: whether it is that of this
    machine.

    status, problem: what the director answered, or why it did not.
    """
    settings = settings_of(config.users, config.dovecot, config.listen, config.ring)
    conf, conf_problem = dovecot
    process, denied = None, False
    try:
        process = process_of(config.listen.api.path)
    except PermissionError:
        denied = True
    paths = (
        settings.login,
        os.path.dirname(settings.login),
        f"{settings.base_dir}/login",
        settings.notify,
        settings.userdb,
        settings.admin,
        settings.auth,
        settings.auth_userdb,
        settings.ipc,
        settings.anvil,
    )
    hosts = [host.address for host in status.hosts if host.up and host.weight] if status else []
    systemd_units = units(process, SEARCH) if here else ()
    director_as = user_of_process(process) if process else user_of(systemd_units) or current_user()
    return Facts(
        settings=settings,
        director_as=director_as,
        running=None if denied else process is not None,
        conf=conf,
        conf_problem=conf_problem,
        here=here,
        files={path: file_at(path) for path in paths if path},
        status=status,
        status_problem=problem,
        version=version,
        open_files=open_files(process) if process else 0,
        used_files=used_files(process) if process else 0,
        needed_files=descriptors.needed(len(config.ring.servers)),
        skew=skew,
        kicks=kicks,
        backends=backends(hosts),
        keeper=keeper_of(config, director_as) if here else None,
        units=systemd_units,
        unit_user=unit_user(systemd_units, config.file),
    )


def unit_user(found: Sequence[Unit], file: str) -> UnitUser | None:
    """The user of the director's service, and their problems with the configuration; None: no service."""
    service = _service(found)
    if service is None or not (name := service.settings.get("User", "")):
        return None
    try:
        checked = check_file_as(_account(service, name), file, os.environ)
    except NoSuchAccount as exc:
        return UnitUser(unit=service.name, name=name, problems=(str(exc),))
    except DirectorError as exc:
        return UnitUser(unit=service.name, name=name, unseen=str(exc))
    return UnitUser(unit=service.name, name=name, problems=tuple(checked.problems))


def user_of(found: Sequence[Unit]) -> ProcessUser | None:
    """The user as which the service starts the director; None: not known."""
    service = _service(found)
    if service is None:
        return None
    try:
        account = _account(service, service.settings.get("User") or "root")
    except NoSuchAccount:  # unit_user reports it
        return None
    return ProcessUser(uid=account.uid, gids=account.groups, name=account.name)


def _service(found: Sequence[Unit]) -> Unit | None:
    return next((unit for unit in found if unit.name.endswith(".service")), None)


def _account(service: Unit, name: str) -> Account:
    """The account of the service with this user name.

    Raises:
        NoSuchAccount: there is no such user or group.
    """
    group = service.settings.get("Group", "")
    return account(f"{name}:{group}" if group else name)


def keeper_of(config: Config, director_as: ProcessUser) -> Keeper | None:
    """The keeper of a director with this configuration and user; None: no keeper answers."""
    for path in control_paths(config):
        try:
            answer = keeperlink.status(path, director_as.uid)
        except keeperlink.KeeperError:
            continue
        return Keeper(path=path, process=answer.process, standalone=answer.standalone, listeners=answer.names)
    return None


def read_doveconf(file: str) -> Doveconf:
    """The configuration that doveconf printed on another machine.

    Args:
        file: path of the output; `-` is standard input.

    Raises:
        DoveconfError: the file cannot be read, or is not Dovecot's configuration.
    """
    try:
        text = decoded(Path("/dev/stdin" if file == "-" else file).read_bytes())
    except OSError as exc:
        raise DoveconfError(file, 0, exc.strerror or str(exc)) from exc
    return read(text, file)


def run_doveconf(file: str | None) -> tuple[Doveconf | None, str]:
    """The configuration of this machine's Dovecot, or None and the reason.

    Args:
        file: path of dovecot.conf; None means the usual path.
    """
    program = shutil.which("doveconf", path=SEARCH)
    if program is None:
        return None, "doveconf is not installed here: run this on a proxy, or give --doveconf FILE"
    # -a prints defaults too, which differ between releases; -n does not. Without -P secrets are hidden.
    command = [program, "-a", *(["-c", file] if file else [])]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=DOVECONF_TIMEOUT, stdin=subprocess.DEVNULL
        )
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()
            return None, f"doveconf -a failed: {lines[-1] if lines else result.returncode}"
        return read(result.stdout, "doveconf -a"), ""
    except (OSError, subprocess.TimeoutExpired, DoveconfError) as exc:
        return None, str(exc)


def file_at(path: str) -> File:
    """The file at `path`. Connects to a socket, or opens a FIFO, to see if it is used; sends nothing."""
    try:
        status = os.stat(path)
    except PermissionError:
        return File(path=path, kind="hidden")
    except OSError:
        return File(path=path)
    kinds = ((stat.S_ISSOCK, "socket"), (stat.S_ISFIFO, "fifo"), (stat.S_ISDIR, "folder"))
    kind = next((name for test, name in kinds if test(status.st_mode)), "file")
    used = {"socket": _socket_in_use, "fifo": _fifo_in_use}.get(kind, lambda _: None)(path)
    mode = stat.S_IMODE(status.st_mode)
    return File(path=path, kind=kind, mode=mode, uid=status.st_uid, gid=status.st_gid, used=used)


def _socket_in_use(path: str) -> bool | None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return None
    return True


def _fifo_in_use(path: str) -> bool | None:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as exc:
        return False if exc.errno == errno.ENXIO else None
    return True


def current_user() -> ProcessUser:
    groups = dict.fromkeys([os.getegid(), *os.getgroups()])
    return ProcessUser(uid=os.geteuid(), gids=tuple(groups), name=_user(os.geteuid()))


def process_of(api: str) -> int | None:
    """The process that answers at the API socket; None: there is none.

    Raises:
        PermissionError: this process may not connect.
    """
    credentials = struct.Struct("3i")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(CONNECT_TIMEOUT)
        try:
            # SO_PEERCRED names the process that opened the socket, which may be systemd. The credentials of
            # the answer name the director.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            client.connect(api)
            listens = credentials.unpack(
                client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
            )
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: director\r\nConnection: close\r\n\r\n")
            _, found, _, _ = client.recvmsg(1, socket.CMSG_SPACE(credentials.size))
        except PermissionError:
            raise
        except TimeoutError:
            return None if _is_manager(listens[0]) else listens[0] or None
        except OSError:
            return None
    senders = [data for _, kind, data in found if kind == socket.SCM_CREDENTIALS]
    pid: int = credentials.unpack(senders[0])[0] if senders else 0
    return pid or None


def _is_manager(process: int) -> bool:
    """Whether this process is systemd, which opens sockets for other programs."""
    try:
        return Path(f"/proc/{process}/comm").read_text() == "systemd\n"
    except OSError:
        return False


def user_of_process(process: int) -> ProcessUser:
    """The user of a process; if it cannot be read, the user of this process."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return current_user()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    uid, gid = int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1])
    groups = dict.fromkeys([gid, *map(int, fields["Groups"].split())])
    return ProcessUser(uid=uid, gids=tuple(groups), name=_user(uid))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def open_files(process: int) -> int:
    """The limit of descriptors of a process; 0 if there is no limit, or it cannot be read."""
    try:
        text = Path(f"/proc/{process}/limits").read_text()
    except OSError:
        return 0
    match = re.search(r"^Max open files\s+(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else 0


def used_files(process: int) -> int:
    """The number of descriptors that a process has open; 0 if it cannot be read."""
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:
        return 0


def backends(addresses: Iterable[str]) -> tuple[Backend, ...]:
    """The backends with the protocols that accept a connection. All are tried at the same time."""
    addresses = list(addresses)
    tries = [(address, protocol) for address in addresses for protocol in PORTS]
    with ThreadPoolExecutor(max(1, min(64, len(tries)))) as pool:
        results = dict(zip(tries, pool.map(_accepts_connections, tries), strict=True))
    return tuple(
        Backend(
            address=address,
            open=tuple(protocol for protocol in PORTS if results[address, protocol]),
            local=_is_local(address),
        )
        for address in addresses
    )


def _accepts_connections(pair: tuple[str, str]) -> bool:
    address, protocol = pair
    try:
        socket.create_connection((address, PORTS[protocol]), timeout=CONNECT_TIMEOUT).close()
    except OSError:
        return False
    return True


def _is_local(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def lookup_answer(userdb: str, user: str) -> str:
    """The answer to a look-up of `user` at the director's userdb socket, without secrets, or an error.

    The look-up counts as a login: it assigns an unassigned user.
    """
    name = escape(user.encode())
    request = b"VERSION\t1\t1\nPASS\t1\t%b\tservice=doveadm\tprotocol=doveadm\n" % name
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONNECT_TIMEOUT * 5)
            client.connect(userdb)
            client.sendall(request)
            # Read line by line: an answer may arrive in pieces.
            with client.makefile(errors="replace", newline="\n") as lines:
                for line in lines:
                    if _is_answer(line):
                        return SECRET.sub("", line.rstrip("\n"))
    except OSError as exc:
        return f"{userdb}: {exc.strerror or exc}"
    return f"{userdb}: closed without an answer"


def _is_answer(line: str) -> bool:
    return line.split("\t", 1)[0] in ("PASS", "NOTFOUND", "FAIL")
