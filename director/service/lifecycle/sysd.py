"""Notifications to systemd (sd_notify) and sockets from systemd (socket activation). Both are optional."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from director.errors import ListenError

FIRST_DESCRIPTOR = 3
DIGITS = 18
"""Digits of a number from the service manager, at most."""


class Notifier:
    """Reports the director's state to the service manager. Its methods return whether they sent it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):
            address = "\0" + address[1:]
        self._address = address if address[:1] in ("/", "\0") else ""
        self._descriptor = _socket() if self._address else -1
        """Opened once, so that a director without free descriptors can still send a sign of life."""
        self.watchdog_interval = _watchdog_interval(environ) if self._address else None
        """Seconds after which `watchdog` is due; None if the manager does not expect it."""

    def ready(self, status: str) -> bool:
        """Send READY: all listeners are open and served, after a start or a reload."""
        return self._send("READY=1", _status(status))

    def status(self, status: str) -> bool:
        """Send a line for `systemctl status`."""
        return self._send(_status(status))

    def watchdog(self) -> bool:
        """Send WATCHDOG, as a sign of life: without it the service manager restarts the director."""
        return self._send("WATCHDOG=1")

    def reloading(self, now: float) -> bool:
        """Report a reload. `ready` must follow. now: monotonic seconds."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={round(now * 1_000_000)}")

    def stopping(self) -> bool:
        return self._send("STOPPING=1")

    def _send(self, *lines: str) -> bool:
        if not self._address:
            return False
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=self._descriptor)
        try:
            end.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            # The manager has ended or is busy. Logins continue; without signs of life it kills the process.
            return False
        finally:
            end.detach()
        return True

    def close(self) -> None:
        """Close the socket. Nothing is sent any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._address, self._descriptor = "", -1


def _socket() -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK).detach()


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.splitlines())


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000 if _is_number(microseconds) and int(microseconds) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS


def machine_id() -> str:
    """Return systemd's id of this machine; empty if it has none. The id must stay on the machine."""
    try:
        return Path("/etc/machine-id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def inherited_descriptors(environ: Mapping[str, str], pid: int) -> dict[str, list[int]]:
    """Return the listening descriptors that systemd has opened for process `pid`, by their
    FileDescriptorName.

    Raises ListenError if they have no names, because their use cannot be guessed.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    count = environ.get("LISTEN_FDS", "0")
    if not _is_number(count):
        raise ListenError("systemd", "inherited descriptors", f"LISTEN_FDS = {count!r} is not a number")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if int(count) and ("" in names or len(names) != int(count)):
        raise ListenError(
            "systemd",
            f"{count} inherited descriptors",
            "each needs a name; write FileDescriptorName=login (or notify, userdb, …) into its socket unit",
        )
    found: dict[str, list[int]] = {}
    for number in range(int(count)):
        found.setdefault(names[number], []).append(FIRST_DESCRIPTOR + number)
    return found
