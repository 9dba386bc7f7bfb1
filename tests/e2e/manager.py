"""A stand-in for systemd.

It opens and keeps the sockets of a director, starts the director, receives its notifications, and starts it
again if it has ended without being stopped.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from director.demo.process import ServeProcess

LAUNCHER = """
import os, sys
count = int(sys.argv[1])
ends = [int(end) for end in sys.argv[2:2 + count]]
high = [os.dup(end) for end in ends]
import fcntl
high = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in high]
for number, end in enumerate(high):
    os.dup2(end, 3 + number, inheritable=True)
os.closerange(3 + count, 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2 + count:]])
"""
"""The work of systemd between fork and exec."""


class Managed(ServeProcess):
    """A director whose sockets belong to the manager. It is started and stopped as any other director."""

    def open(self, run: Path) -> None:
        """Listen on its sockets below `run`, as socket units do. Call it before the director is started."""
        self.pids: list[int] = []
        """The process ids of all its processes so far."""
        self.messages: list[str] = []
        """The messages of sd_notify."""
        self._stopping = False
        (run / "login/director").mkdir(parents=True)
        fifo = run / "login/director/proxy-notify"
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        self._ends = {
            "login": _listening(run / "login/director/login", 0o666),
            "userdb": _listening(run / "director-userdb", 0o600),
            "admin": _listening(run / "director-admin", 0o600),
            "api": _listening(self.api_path, 0o600),
            "notify": os.open(fifo, os.O_RDWR | os.O_NONBLOCK),
            "ring": _listening_tcp(self.member),
        }
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(run / "notify"))

    def start(self) -> Self:
        self._stopping = False
        threading.Thread(target=self._hear, daemon=True).start()
        self._launch()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        return self

    def let_end(self) -> None:
        """Note that the director is about to be stopped and must not be started again."""
        self._stopping = True
        self._supervisor.join()

    def close(self) -> None:
        for end in self._ends.values():
            os.close(end)
        self._notify.close()

    def kill(self) -> None:
        """Kill the director. It is started again at once."""
        os.kill(self.pids[-1], signal.SIGKILL)

    def _launch(self) -> None:
        names, ends = list(self._ends), list(self._ends.values())
        more = {
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(names),
            "NOTIFY_SOCKET": self._notify.getsockname(),
        }
        numbers = [str(len(ends)), *map(str, ends)]
        with self.log_path.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, *numbers, "-m", "director", "serve", "-c", str(self.config)],
                env=os.environ | more,
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pids.append(self.process.pid)

    def _supervise(self) -> None:
        while not self._stopping:
            process = self.process
            if process is not None and process.poll() is not None and not self._stopping:
                self._launch()
            time.sleep(0.02)

    def _hear(self) -> None:
        with suppress(OSError):
            while True:
                self.messages.append(self._notify.recv(4096).decode())


def _listening(path: Path, mode: int) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(1024)
        return os.dup(sock.fileno())


def _listening_tcp(member: str) -> int:
    address, _, port = member.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, int(port)))
        sock.listen(1024)
        return os.dup(sock.fileno())
