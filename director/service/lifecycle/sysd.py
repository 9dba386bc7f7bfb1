"""What systemd wants to hear (sd_notify) and what it hands over (socket activation). Optional."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from director.errors import ListenError

FIRST_DESCRIPTOR = 3
DIGITS = 18
"""Digits of a number of the service manager at most."""


class Notifier:
    """Tells the service manager how the daemon is. Every method returns whether the message went out."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        if address.startswith("@"):
            address = "\0" + address[1:]
        self._address = address if address[:1] in ("/", "\0") else ""
        self._descriptor = _socket() if self._address else -1
        """Opened once: a director without free descriptors must be able to give a sign of life."""
        self.watchdog_interval = _watchdog_interval(environ) if self._address else None
        """Seconds after which `watchdog` is due; None: nobody waits for it."""

    def ready(self, status: str) -> bool:
        """Everything is open and served (after a start or a reload)."""
        return self._send("READY=1", _status(status))

    def status(self, status: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(_status(status))

    def watchdog(self) -> bool:
        """A sign of life."""
        return self._send("WATCHDOG=1")

    def reloading(self, now: float) -> bool:
        """`ready` follows. now: monotonic seconds."""
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
            # A manager that is gone or busy must not stop logins; where it misses us, it kills us.
            return False
        finally:
            end.detach()
        return True

    def close(self) -> None:
        """Nothing is said any more."""
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
    """What systemd calls this machine; empty where it has no name. It is not to be told to others."""
    try:
        return Path("/etc/machine-id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def inherited_descriptors(environ: Mapping[str, str], pid: int) -> dict[str, list[int]]:
    """The listening descriptors systemd opened for process `pid`, by their FileDescriptorName.

    Raises ListenError where they have no names: which is which cannot be guessed.
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
