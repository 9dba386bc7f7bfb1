"""The files of deploy/, used as their comments say: with Dovecot's package defaults, and as socket units."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import socketserver
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from director.demo.dovecot import Backend, Programs
from director.demo.ports import USUAL
from director.demo.process import ServeProcess
from tests.certificates import Pems

DEPLOY = Path(__file__).parents[2] / "deploy"
OTHER = "127.0.90.12"
"""The address of a second proxy, which does not run."""
SYSTEM_USERS = "!include auth-system.conf.ext"
LAUNCHER = """
import os, sys
uid, gid, config, *opened = sys.argv[1:]
for at, fd in enumerate(opened):
    os.dup2(int(fd), 100 + at)
for at in range(len(opened)):
    os.dup2(100 + at, 3 + at)
os.closerange(3 + len(opened), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.umask(0o077)
os.execv(sys.executable, [sys.executable, "-m", "director", "serve", "-c", config])
"""
"""The work of systemd between fork and exec: descriptors from 3 on, in the order of their names; then
User=."""
INSTANCE = """
base_dir = {run}
state_dir = {run}
instance_name = {name}
listen = {address}
log_path = {log}
auth_failure_delay = 0
"""
BOX = """
namespace inbox {{
  mailbox "served by {name}" {{
    auto = create
  }}
}}
first_valid_uid = 1
submission_relay_host = {relay[0]}
submission_relay_port = {relay[1]}
"""
MAIL = {
    "2.3": """
mail_location = maildir:~/Maildir
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={mail}/%u
}}
""",
    "2.4": """
mail_driver = maildir
mail_path = ~/Maildir
mail_inbox_path =
passdb anybody {{
  driver = static
  fields {{
    nopassword = y
  }}
}}
userdb anybody {{
  driver = static
  fields {{
    uid = {uid}
    gid = {gid}
    home = {mail}/%{{user}}
  }}
}}
""",
}


class Installed(Backend):
    """Dovecot as its Debian package configures it, with deploy/dovecot/RELEASE/`kind`.conf as local.conf.

    `kind` is `proxy` or `backend`. `proxy` is the address from which the proxy connects to the backends.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        address: str,
        *,
        kind: str,
        programs: Programs,
        pems: Pems,
        proxy: str = "",
        relay: tuple[str, int] = ("127.0.0.1", 25),
    ) -> None:
        super().__init__(folder, name, address, USUAL, programs=programs, relay=relay)
        self.config = folder / "etc/dovecot.conf"
        self.kind, self.pems, self.proxy = kind, pems, proxy

    def write(self) -> None:
        package = (self.programs.root or Path("/")) / "usr/share/dovecot"
        shutil.copytree(package / "conf.d", self.config.parent / "conf.d", dirs_exist_ok=True)
        shutil.copy(self.pems.cert, self.config.parent / "dovecot.pem")
        shutil.copy(self.pems.key, self.config.parent / "dovecot.key")
        self._change("10-ssl.conf", "/etc/dovecot/private", str(self.programs.inside(self.config.parent)))
        self._change("10-auth.conf", SYSTEM_USERS, "#" + SYSTEM_USERS)
        text = (DEPLOY / "dovecot" / self.programs.release / f"{self.kind}.conf").read_text()
        local = text.replace("10.0.0.1", self.proxy).replace("10.0.0.2", OTHER).replace("CHANGE-ME", "a-word")
        (self.config.parent / "local.conf").write_text(local)
        super().write()

    def _change(self, file: str, old: str, new: str) -> None:
        path = self.config.parent / "conf.d" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def settings(self) -> str:
        facts = self._facts()._asdict()
        package = (self.programs.root or Path("/")) / "usr/share/dovecot/dovecot.conf"
        text = package.read_text() + INSTANCE.format(**facts)
        if self.kind == "backend":
            users = self._users()
            text += BOX.format(**facts)
            text += MAIL[self.programs.release].format(**facts, uid=users.mail, gid=users.mail_group)
        return text

    @property
    def listening(self) -> list[int]:
        return [143, 993, 110, 995, 587, 4190, 24, 24245]


class Activated(ServeProcess):
    """A director that gets its listeners as systemd would open them from deploy/systemd/*.socket.

    `uid` and `gid` stand for User= and Group= of its service.
    """

    def __init__(self, folder: Path, address: str, proxy: Installed, uid: int, gid: int) -> None:
        super().__init__(folder, f"{address}:{USUAL.ring}", proxy.run)
        self.proxy, self.uid, self.gid = proxy, uid, gid

    def write_alone(self, mail_servers: str) -> None:
        """Write director.toml of a director without a ring."""
        self.folder.mkdir(mode=0o700, parents=True)
        self.config.write_text(
            'state = "sqlite:///state.db"\n'
            f'[backends]\nmail_servers = ["{mail_servers}"]\n'
            f'[dovecot]\nbase_dir = "{self.proxy.run}"\n'
            f'[listen.api]\npath = "{self.api_path}"\n'
        )
        os.chown(self.folder, self.uid, self.gid)

    def start(self) -> Self:
        opened = [
            (name, fd)
            for unit in sorted((DEPLOY / "systemd").glob("*.socket"))
            for name, fd in self._open(unit)
        ]
        numbers = [fd for _, fd in opened]
        names = ":".join(name for name, _ in opened)
        with self.log_path.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    python_for_anybody(),
                    "-c",
                    LAUNCHER,
                    *map(str, (self.uid, self.gid, self.config, *numbers)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=numbers,
                start_new_session=True,
                env=os.environ
                | {
                    "LISTEN_FDS": str(len(opened)),
                    "LISTEN_FDNAMES": names,
                    "PYTHONPATH": ":".join(path_for_anybody(self.folder.parent)),
                },
                cwd="/",
            )
        for fd in numbers:
            os.close(fd)
        return self

    def _open(self, unit: Path) -> Iterator[tuple[str, int]]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(unit.read_text())
        settings = parser["Socket"]
        kind = "ListenFIFO" if "ListenFIFO" in settings else "ListenStream"
        path = Path(settings[kind].replace("/run/dovecot", str(self.proxy.run)))
        path = self.api_path if path.name == "api.sock" else path
        path.parent.mkdir(mode=int(settings["DirectoryMode"], 8), parents=True, exist_ok=True)
        mode = int(settings["SocketMode"], 8)
        if kind == "ListenFIFO":
            os.mkfifo(path)
            path.chmod(mode)
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            assert stat.S_ISFIFO(os.fstat(fd).st_mode)
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            path.chmod(mode)
            listener.listen(int(settings.get("Backlog", "128")))
            fd = listener.detach()
        yield settings["FileDescriptorName"], fd


def python_for_anybody() -> str:
    """Return this Python if other users may read it, else the system's Python of the same version."""
    executable = Path(sys.executable)
    if _is_open(executable.parent) and _is_open(executable.resolve().parent):
        return sys.executable
    return f"/usr/bin/python3.{sys.version_info.minor}"


def path_for_anybody(place: Path) -> list[str]:
    """Return the folders of this program and its libraries.

    They are copied to `place` if other users may not read them.
    """
    checkout, libraries = DEPLOY.parent, Path(msgspec.__file__).parents[1]
    if _is_open(checkout) and _is_open(libraries):
        return [str(checkout), str(libraries)]
    copies = place / "program", place / "libraries"
    if not copies[0].exists():
        needed = shutil.ignore_patterns("__pycache__", "mypy*", "_pytest", "pytest*", "ruff*", "hypothesis*")
        for room in ("director", "state", "migrations"):
            shutil.copytree(checkout / room, copies[0] / room, ignore=needed)
        shutil.copytree(libraries, copies[1], ignore=needed)
    return [str(copy) for copy in copies]


def _is_open(folder: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))


class _Smtp(socketserver.StreamRequestHandler):
    """Accepts every command, and no mail."""

    def handle(self) -> None:
        self.wfile.write(b"220 relay\r\n")
        for line in self.rfile:
            self.wfile.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 relay\r\n")


@contextmanager
def smtp_relay(address: str) -> Iterator[tuple[str, int]]:
    """Give address and port of a server that accepts mail of the backends' submission service."""
    import threading

    with socketserver.ThreadingTCPServer((address, 0), _Smtp) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
        finally:
            server.shutdown()
            thread.join()
