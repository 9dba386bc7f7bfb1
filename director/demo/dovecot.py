"""Stock Dovecot 2.3 on a loopback address: a proxy with or without a director behind it, or a backend.

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
from pathlib import Path
from types import TracebackType
from typing import Self

from director.demo.ports import USUAL, DemoError, Ports, in_the_way, is_free, is_listening

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
POLL = 0.02
DOVEADM_PASSWORD = "loopback"
ANYBODY = """passdb {
  driver = static
  args = nopassword=y proxy=y
}
"""
LOGGED_IN = re.compile(r"(imap|pop3)-login: Info: Login: user=<([^>]*)>")
DELIVERED = re.compile(r"(lmtp)\(([^)]*)\).*: saved mail to ")

COMMON = """# written by director demo; changes are lost at the next start
base_dir = {run}
state_dir = {run}
instance_name = {name}
listen = {address}
protocols = imap pop3 lmtp
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
log_path = {log}
log_timestamp = "%Y-%m-%d %H:%M:%S.%{{usecs}} "
login_greeting = {name} ready.
login_trusted_networks = 127.0.0.0/8
mail_location = maildir:~/Maildir
mail_max_userip_connections = 0
imap_id_send = name {name}
first_valid_uid = 1
default_vsz_limit = 0
default_internal_user = {internal_user}
default_internal_group = {internal_group}
default_login_user = {login_user}
doveadm_port = {ports.doveadm}
doveadm_password = {doveadm_password}
stats_writer_socket_path =

userdb {{
  driver = static
  args = uid={mail_user} gid={mail_group} home={mail}/%u
}}
namespace inbox {{
  inbox = yes
  mailbox "served by {name}" {{
    auto = create
  }}
}}

# one user's wrong password must not slow down the others: here they all come from 127.0.0.1
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service imap-login {{
  executable = imap-login{login_argument}
  service_count = 0
  process_limit = 2
  inet_listener imap {{
    port = {ports.imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  executable = pop3-login{login_argument}
  service_count = 0
  process_limit = 2
  inet_listener pop3 {{
    port = {ports.pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service imap {{
  service_count = 1000
  process_limit = 500
}}
service lmtp {{
  inet_listener lmtp {{
    port = {ports.lmtp}
  }}
}}
service doveadm {{
  inet_listener doveadm {{
    port = {ports.doveadm}
  }}
}}
"""

PROXYING = """
lmtp_proxy = yes
"""

WITH_DIRECTOR = """
login_proxy_notify_path = director/proxy-notify
protocol lmtp {
  auth_socket_path = director-userdb
}
protocol doveadm {
  auth_socket_path = director-userdb
}
service ipc {
  unix_listener ipc {
    mode = 0660
    group = $default_internal_group
  }
}
# without director_servers 2.3 starts no director of its own, but its master would still create director-admin
service director {
  unix_listener director-admin {
    mode = 0
  }
}
"""

WITHOUT_ROOT = """
service anvil {
  chroot =
}
service director {
  chroot =
}
service imap-login {
  chroot =
}
service imap-urlauth-login {
  chroot =
}
service ipc {
  chroot =
}
service old-stats {
  chroot =
}
service pop3-login {
  chroot =
}
"""


class Dovecot:
    """One running instance. Use as a context manager, or call start() and stop()."""

    def __init__(self, folder: Path, name: str, address: str, ports: Ports = USUAL) -> None:
        self.folder, self.name, self.address, self.ports = folder, name, address, ports
        self.config = folder / "dovecot.conf"
        self.run = folder / "run"
        self.log_file = folder / "dovecot.log"
        self.mail = folder / "mail"
        self._master: subprocess.Popen[bytes] | None = None

    def settings(self) -> str:
        """The whole dovecot.conf."""
        raise NotImplementedError

    def write(self) -> None:
        """Write the configuration and create the folders; a director may then start before Dovecot does."""
        mail_uid, mail_gid = (pwd.getpwnam("nobody").pw_uid, -1) if os.geteuid() == 0 else (-1, -1)
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for folder in (self.run, self.mail):
            folder.mkdir(mode=0o755, exist_ok=True)
        os.chown(self.mail, mail_uid, mail_gid)
        login = self.run / "login"
        login.mkdir(mode=0o750, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(login, 0, grp.getgrnam("dovenull").gr_gid)
        self.config.write_text(self.settings())

    def start(self) -> None:
        """Start it and return when all its ports are open. Raises DemoError with the reason from its log."""
        for port in self.ports.dovecot:
            if not is_free(self.address, port):
                raise DemoError(f"{self.name} cannot start: {in_the_way(self.address, port)}")
        self.write()
        # Neither a pipe nor a terminal: children would keep the pipe open, and Ctrl-C is for the demo alone.
        with (self.folder / "start.log").open("wb") as output:
            self._master = subprocess.Popen(
                [find_program("dovecot"), "-F", "-c", self.config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        # Not by connecting: a login process that finds no director comes back only with its next client.
        while not all(is_listening(self.address, port) for port in self.ports.dovecot):
            if self._master.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise DemoError(f"{self.name}: Dovecot did not start: {self._last_words()}")
            time.sleep(POLL)

    def stop(self) -> None:
        """End it, in order; what does not end within 10 s is killed. Does nothing where it is not running."""
        if self._master is None:
            return
        instance = self.processes()
        self._master.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        while (self._master.poll() is None or _alive(instance)) and time.monotonic() < deadline:
            time.sleep(POLL)
        self._end(instance)

    def kill(self) -> None:
        """kill -9 of the master and every process it started."""
        if self._master is not None:
            self._end(self.processes())

    def processes(self, service: str = "") -> list[int]:
        """The process ids of the instance, or of its processes of one service, as `auth` or `imap-login`."""
        if self._master is None:
            return []
        children = _children(self._master.pid)
        if service:
            return [pid for pid, command in children.items() if command == service]
        return [self._master.pid, *children]

    def doveadm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run doveadm with this instance's configuration; exit code and output are the caller's to judge."""
        command = [find_program("doveadm"), "-c", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _settings(self, login_argument: str = "") -> str:
        me, my_group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        root = os.geteuid() == 0
        nobody = pwd.getpwnam("nobody")
        text = COMMON.format(
            name=self.name,
            address=self.address,
            ports=self.ports,
            run=self.run,
            mail=self.mail,
            log=self.log_file,
            login_argument=login_argument,
            doveadm_password=DOVEADM_PASSWORD,
            internal_user="dovecot" if root else me,
            internal_group="dovecot" if root else my_group,
            login_user="dovenull" if root else me,
            mail_user=nobody.pw_uid if root else os.geteuid(),
            mail_group=nobody.pw_gid if root else os.getegid(),
        )
        return text if root else text + WITHOUT_ROOT

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

    def _last_words(self) -> str:
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
        passdb: str = ANYBODY,
        director: bool = True,
    ) -> None:
        super().__init__(folder, name, address, ports)
        self.passdb, self.director = passdb, director

    def settings(self) -> str:
        passdb = self.passdb if self.ports == USUAL else _with_ports(self.passdb, self.ports)
        text = self._settings(login_argument=" director/login" if self.director else "") + passdb + PROXYING
        return text + WITH_DIRECTOR if self.director else text


class Backend(Dovecot):
    """Dovecot as a mail server: any password, mail in its own folder, its name wherever a client can see it.

    IMAP clients see it in the reply to ID and, like doveadm, as the mailbox `served by NAME`.
    """

    def settings(self) -> str:
        return self._settings() + ANYBODY.replace(" proxy=y", "")

    def users(self, protocol: str) -> list[str]:
        """Who logged in by `imap` or `pop3` here, or was delivered to by `lmtp`, in order, from the log."""
        found = (match.groups() for line in self.log().splitlines() for match in _served(line))
        return [user for spoken, user in found if spoken == protocol]


def find_program(name: str) -> str:
    """Path of a program that Debian may keep in /usr/sbin. Raises DemoError that names what is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise DemoError(f"{name} is not installed")
    return path


def _served(line: str) -> list[re.Match[str]]:
    return [match for match in (LOGGED_IN.search(line), DELIVERED.search(line)) if match]


def _with_ports(passdb: str, ports: Ports) -> str:
    # Dovecot proxies to the protocol's usual port unless told otherwise. %a is the port the client came to,
    # which here is the backend's too; a doveadm command has no client.
    port = f"port=%{{if;%s;eq;doveadm;{ports.doveadm};%a}}"
    return passdb.replace("proxy=y", f"proxy=y {port}")


def _children(parent: int) -> dict[int, str]:
    children = {}
    for process in Path("/proc").glob("[0-9]*"):
        command, _state, owner = _process(int(process.name))
        if owner == parent:
            children[int(process.name)] = command
    return children


def _alive(pids: list[int]) -> bool:
    # a zombie that nobody collects, as in a container without an init, is not alive
    return any(_process(pid)[1] not in ("", "Z") for pid in pids)


def _process(pid: int) -> tuple[str, str, int]:
    """Command, state and parent of a process; empty and 0 where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", "", 0
    state, parent = text[text.rindex(")") + 2 :].split()[:2]
    return text[text.index("(") + 1 : text.rindex(")")], state, int(parent)
