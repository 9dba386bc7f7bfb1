"""Logs users in while a command runs, and keeps one session open: `client.py COMMAND`. Prints JSON.

It is a part of `tests.booted` that runs on the proxy, with the standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

FIFO = "/run/dovecot/login/director/proxy-notify"
BEFORE, AFTER, EVERY = 1.0, 3.0, 0.1
"""Seconds of logins before and after the command, and between two logins."""
PATIENCE = 60.0


class Session:
    """An IMAP session, logged in. Raises EOFError and OSError."""

    def __init__(self, user: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", 143), PATIENCE)
        self.file = self.sock.makefile("rb")
        while b"CAPABILITY" not in self._line():  # Dovecot may first say that it waits for auth
            pass
        answer = self.ask(f"LOGIN {user} word")
        if not answer.startswith("a OK"):
            raise EOFError(answer)

    def ask(self, command: str) -> str:
        self.sock.sendall(f"a {command}\r\n".encode())
        while not (line := self._line()).startswith(b"a "):
            pass
        return line.decode().strip()

    def _line(self) -> bytes:
        line = self.file.readline()
        if not line:
            raise EOFError("the connection was closed")
        return line


class Record:
    def __init__(self) -> None:
        self.times: list[float] = []
        self.failed: list[str] = []
        self.noop = 0.0
        self.lost = ""
        self.stop = threading.Event()

    def login(self, user: str) -> None:
        began = time.monotonic()
        try:
            Session(user).sock.close()
        except (EOFError, OSError) as error:
            self.failed.append(str(error) or type(error).__name__)
        self.times.append(time.monotonic() - began)

    def live(self, session: Session) -> None:
        try:
            while not self.stop.wait(0.05):
                began = time.monotonic()
                session.ask("NOOP")
                self.noop = max(self.noop, time.monotonic() - began)
        except (EOFError, OSError) as error:
            self.lost = str(error) or type(error).__name__


def main(command: str) -> int:
    record = Record()
    live = threading.Thread(target=record.live, args=(Session("live"),))
    live.start()
    process: subprocess.Popen[bytes] | None = None
    began, ended, logins, number = time.monotonic(), float("inf"), [], 0
    while time.monotonic() < ended:
        if process is None and time.monotonic() > began + BEFORE:
            process = subprocess.Popen(command, shell=True)
        if process is not None and ended == float("inf") and process.poll() is not None:
            ended = time.monotonic() + AFTER
        logins.append(threading.Thread(target=record.login, args=(f"user{number % 200}",)))
        logins[-1].start()
        number += 1
        time.sleep(EVERY)
    for login in logins:
        login.join()
    record.stop.set()
    live.join()
    assert process is not None
    found = {
        "rc": process.returncode,
        "logins": number,
        "failed": record.failed,
        "slowest": round(max(record.times), 2),
        "noop": round(record.noop, 3),
        "lost": record.lost or not os.path.exists(FIFO),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
