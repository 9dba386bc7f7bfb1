"""Stock Dovecot 2.3 or 2.4 on a loopback address: a proxy with or without a director behind it, or a backend.

Every instance lives in one folder: dovecot.conf, run/ (its base_dir), mail/, dovecot.log. Nothing outside is
touched. As root it runs as Debian's package would; as another user without privilege separation, on
high ports.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from director.demo import settings23, settings24
from director.demo.ports import USUAL, DemoError, Ports, is_free, is_listening, port_problem
from director.demo.settings import ANYBODY, PROTOCOLS, Facts, Rule, Users

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
POLL = 0.02
LOGGED_IN = re.compile(r"(imap|pop3|managesieve|submission)-login: Info: (?:Login|Logged in): user=<([^>]*)>")
DELIVERED = re.compile(r"(lmtp)\(([^)]*)\).*: saved mail to ")


class Account(NamedTuple):
    """A user or a group of the system Dovecot runs in."""

    name: str
    number: int
    group: int


class Programs:
    """One installed Dovecot: this machine's, or the one in the root file system of another release.

    An instance of another release has its folder below `root` and runs in a chroot there.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    @cached_property
    def release(self) -> str:
        """`2.3` or `2.4`.

        Raises:
            DemoError: another release, or none, is installed.
        """
        result = subprocess.run(self.command("dovecot", "--version"), capture_output=True, text=True)
        version = result.stdout.strip()
        for release in ("2.3", "2.4"):
            if version.startswith(release + "."):
                return release
        raise DemoError(f"Dovecot 2.3 or 2.4 is needed, this is {version or 'an unknown version'}")

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command that runs `program` with `arguments`.

        Raises:
            DemoError: the program is not installed.
        """
        if self.root is None:
            return [find_program(program), *arguments]
        return [find_program("chroot"), str(self.root), program, *arguments]

    def inside(self, path: Path) -> Path:
        """`path` as a Dovecot in the root file system `root` sees it."""
        return path if self.root is None else Path("/") / path.relative_to(self.root)

    def user(self, name: str) -> Account:
        """The user of this name where Dovecot runs."""
        if self.root is None:
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
        fields = _entry(self.root / "etc/passwd", name)
        return Account(name, int(fields[2]), int(fields[3]))

    def group(self, name: str) -> int:
        """The number of the group of this name where Dovecot runs."""
        return (
            grp.getgrnam(name).gr_gid if self.root is None else int(_entry(self.root / "etc/group", name)[2])
        )


class Dovecot:
    """An instance of Dovecot. Use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        address: str,
        ports: Ports = USUAL,
        *,
        programs: Programs | None = None,
        protocols: Sequence[str] = PROTOCOLS,
        relay: tuple[str, int] = ("127.0.0.1", 25),
        extra: str = "",
    ) -> None:
        """protocols: of `settings.ALL_PROTOCOLS`; extra: more of dovecot.conf, in its release's words."""
        self.folder, self.name, self.address, self.ports = folder, name, address, ports
        self.programs = programs or Programs()
        self.protocols, self.relay, self.extra = tuple(protocols), relay, extra
        self.config = folder / "dovecot.conf"
        self.run = folder / "run"
        self.log_file = folder / "dovecot.log"
        self.mail = folder / "mail"
        self._master: subprocess.Popen[bytes] | None = None

    def settings(self) -> str:
        """The text of dovecot.conf without `extra`."""
        raise NotImplementedError

    def write(self) -> None:
        """Write the configuration and create the folders; a director may then start before Dovecot does."""
        mail_uid, mail_gid = (self.programs.user("nobody").number, -1) if os.geteuid() == 0 else (-1, -1)
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in (self.run, self.mail):
            folder.mkdir(mode=0o755, exist_ok=True)
        os.chown(self.mail, mail_uid, mail_gid)
        login = self.run / "login"
        login.mkdir(mode=0o750, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(login, 0, self.programs.group("dovenull"))
        self.config.write_text(self.settings() + self.extra)

    def start(self) -> None:
        """Start the instance, and return when all its ports are open. Raises DemoError with the reason from
        its log."""
        for port in self.listening:
            if not is_free(self.address, port):
                raise DemoError(f"{self.name} cannot start: {port_problem(self.address, port)}")
        self.write()
        # Use neither a pipe, which children would keep open, nor the terminal: Ctrl-C is for the demo alone.
        with (self.folder / "start.log").open("wb") as output:
            self._master = subprocess.Popen(
                self.programs.command("dovecot", "-F", "-c", str(self.programs.inside(self.config))),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        # Do not connect: a login process that finds no director tries again only with its next client.
        while not all(is_listening(self.address, port) for port in self.listening):
            if self._master.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise DemoError(f"{self.name}: Dovecot did not start: {self._end_of_log()}")
            time.sleep(POLL)

    @property
    def listening(self) -> list[int]:
        """The TCP ports that the instance opens."""
        return [self.ports.of(protocol) for protocol in (*self.protocols, "doveadm")]

    def stop(self) -> None:
        """Stop the instance. Processes that run after 10 s are killed. Does nothing if it is not running."""
        if self._master is None:
            return
        instance = self.processes()
        self._master.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        while (self._master.poll() is None or _alive(instance)) and time.monotonic() < deadline:
            time.sleep(POLL)
        self._end(instance)

    def stop_master(self) -> None:
        """Stop the master only: its other processes may continue until their clients disconnect."""
        if self._master is not None:
            self._master.terminate()
            self._master.wait(STOP_TIMEOUT)
            self._master = None

    def kill(self) -> None:
        """Kill the master and every process that it started (SIGKILL)."""
        if self._master is not None:
            self._end(self.processes())

    def processes(self, service: str = "") -> list[int]:
        """The process ids of the instance, or of one service, such as `auth` or `imap-login`."""
        if self._master is None:
            return []
        children = _children(self._master.pid)
        if service:
            # The kernel keeps 15 characters of a name: managesieve-log.
            return [pid for pid, command in children.items() if command == service[:15]]
        return [self._master.pid, *children]

    def doveadm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run doveadm with this instance's configuration and return its exit code and output."""
        command = self.programs.command("doveadm", "-c", str(self.programs.inside(self.config)), *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def users(self, protocol: str) -> list[str]:
        """Users of logins by `imap`, `pop3`, … or of deliveries by `lmtp`, in order, from the log."""
        found = (match.groups() for line in self.log().splitlines() for match in _served(line))
        return [user for spoken, user in found if spoken == protocol]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _facts(self) -> Facts:
        inside = self.programs.inside
        return Facts(
            name=self.name,
            address=self.address,
            ports=self.ports,
            protocols=self.protocols,
            run=inside(self.run),
            mail=inside(self.mail),
            log=inside(self.log_file),
            users=self._users(),
            relay=self.relay,
        )

    def _users(self) -> Users:
        if os.geteuid() == 0:
            mail = self.programs.user("nobody")
            return Users("dovecot", "dovecot", "dovenull", mail.number, mail.group, root=True)
        me, my_group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        return Users(me, my_group, me, os.geteuid(), os.getegid(), root=False)

    def _end(self, instance: list[int]) -> None:
        assert self._master is not None
        for pid in instance:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._master.wait()
        self._master = None
        (self.run / "master.pid").unlink(missing_ok=True)

    def _end_of_log(self) -> str:
        lines = (self.folder / "start.log").read_text(errors="replace").splitlines() + self.log().splitlines()
        telling = [line for line in lines if "Fatal" in line or "Error" in line] or lines
        return telling[-1] if telling else f"no message within {START_TIMEOUT:.0f} s"


class Proxy(Dovecot):
    """Dovecot as a proxy: it asks its passdb, and the director for the host unless `director` is False."""

    def __init__(
        self,
        folder: Path,
        name: str,
        address: str,
        ports: Ports = USUAL,
        *,
        passdb: Sequence[Rule] = ANYBODY,
        director: bool = True,
        programs: Programs | None = None,
        protocols: Sequence[str] = PROTOCOLS,
        extra: str = "",
    ) -> None:
        super().__init__(folder, name, address, ports, programs=programs, protocols=protocols, extra=extra)
        self.passdb, self.director = passdb, director

    def settings(self) -> str:
        if self.programs.release == "2.3":
            return settings23.proxy(self._facts(), self.passdb, director=self.director)
        return settings24.proxy(self._facts(), self.passdb, director=self.director)


class Backend(Dovecot):
    """Dovecot as a mail server: any password, mail in its own folder, its name wherever a client can see it.

    IMAP clients see it in the reply to ID and, like doveadm, as the mailbox `served by NAME`.
    """

    def settings(self) -> str:
        facts = self._facts()
        return settings23.backend(facts) if self.programs.release == "2.3" else settings24.backend(facts)


def find_program(name: str) -> str:
    """Path of a program, which may be in /usr/sbin.

    Raises:
        DemoError: it is not installed; the text names what to install.
    """
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise DemoError(f"{name} is not installed")
    return path


def _served(line: str) -> list[re.Match[str]]:
    return [match for match in (LOGGED_IN.search(line), DELIVERED.search(line)) if match]


def _entry(table: Path, name: str) -> list[str]:
    """The fields of a line of /etc/passwd or /etc/group.

    Raises:
        DemoError: there is no such line.
    """
    for line in table.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split(":")
    raise DemoError(f"{table} has no {name}: is Dovecot installed there?")


def _children(parent: int) -> dict[int, str]:
    children = {}
    for process in Path("/proc").glob("[0-9]*"):
        command, _state, owner = _process(int(process.name))
        if owner == parent:
            children[int(process.name)] = command
    return children


def _alive(pids: list[int]) -> bool:
    # In a container without an init no process collects zombies: they count as ended.
    return any(_process(pid)[1] not in ("", "Z") for pid in pids)


def _process(pid: int) -> tuple[str, str, int]:
    """Command, state and parent of a process; empty and 0 if it does not exist."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", "", 0
    state, parent = text[text.rindex(")") + 2 :].split()[:2]
    return text[text.index("(") + 1 : text.rindex(")")], state, int(parent)
