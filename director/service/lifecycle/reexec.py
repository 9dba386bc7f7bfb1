"""Replaces the program of this process in place: same process, same sockets, another program.

Before that, the other program is run as a separate process. This shows whether it starts, accepts the
configuration, and can read the hand-over document. Any error is found while the present program still serves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, MutableMapping

import anyio

from director.errors import DirectorError
from director.service.lifecycle.handover import (
    FORMAT,
    Handover,
    HandoverError,
    Inherited,
    Memory,
    decode,
    encode,
)

VARIABLE = "DIRECTOR_HANDOVER"
"""Environment variable with the descriptor of the hand-over document."""
PROBE_OPTION = "--can-take-over"
PROBE_WITHIN = 30.0
"""Seconds in which the other program must answer that it can take over."""
DEFERRED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""Signals that wait until the successor handles them."""
_TOLD = 500
"""Characters of an error output that are passed on."""
_UNIT_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class CannotReplace(DirectorError):
    """The other program cannot take over. The present program continues."""


def command() -> list[str]:
    """Return the command that started this program. Its path may lead to another release by now."""
    return [sys.executable, *sys.orig_argv[1:]]


async def probe() -> str:
    """Ask the other program whether it can take over. Returns its version.

    Raises CannotReplace with the end of its error output.
    """
    arguments = [*command(), PROBE_OPTION, str(FORMAT)]
    try:
        with anyio.fail_after(PROBE_WITHIN):
            done = await anyio.run_process(arguments, stdin=subprocess.DEVNULL, check=False)
    except TimeoutError:
        raise CannotReplace(
            f"{arguments[0]} did not answer within {PROBE_WITHIN:.0f} s whether it can take over"
        ) from None
    except OSError as exc:
        raise CannotReplace(f"{arguments[0]} cannot be run: {exc.strerror}") from exc
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip() or "it printed no error"
        raise CannotReplace(
            f"the new program cannot take over (exit code {done.returncode}): {output[-_TOLD:]}"
        )
    return done.stdout.decode(errors="replace").strip()


def replace(handover: Handover, memory: Memory, environ: Mapping[str, str]) -> None:
    """Replace this program by the other. Returns only by raising CannotReplace; then nothing has changed."""
    try:
        document = _write(encode(handover, memory))
    except OSError as exc:
        raise CannotReplace(f"no memory for the hand-over document: {exc.strerror}") from exc
    descriptors = [*_descriptors(handover), document]
    variables = {name: value for name, value in environ.items() if name not in _UNIT_VARIABLES}
    arguments = command()
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        os.execve(arguments[0], arguments, variables | {VARIABLE: str(document)})
    except OSError as exc:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        raise CannotReplace(f"{arguments[0]} cannot be started: {exc.strerror}") from exc
    finally:
        os.close(document)


def defer_signals() -> None:
    """Block the signals that the director handles. Signals that arrive wait until `listen_to_signals`, which
    a successor calls too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)


def listen_to_signals() -> None:
    """Unblock the signals that `defer_signals` has blocked, and receive those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)


def ignore_until_served() -> None:
    """Ignore SIGHUP and SIGUSR2, which would end a program that is still starting."""
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def handed_over(environ: MutableMapping[str, str]) -> Inherited | None:
    """Return the state that a predecessor in this process has left; None if there was none.

    Removes `VARIABLE` from `environ`. Raises HandoverError; then the predecessor's sockets stay open, and the
    process must end.
    """
    text = environ.pop(VARIABLE, "")
    if not text:
        return None
    try:
        with open(int(text), "rb") as file:
            file.seek(0)
            inherited = decode(file.read())
    except (OSError, ValueError) as exc:
        raise HandoverError(f"{VARIABLE} = {text!r}: the hand-over document cannot be read: {exc}") from exc
    for descriptor in _descriptors(inherited.handover):
        os.set_inheritable(descriptor, False)
    return inherited


def _descriptors(handover: Handover) -> list[int]:
    ends = [end for item in handover.connections for end in (item.client, item.auth) if end >= 0]
    keeper = [handover.keeper.descriptor] if handover.keeper else []
    return [*(item.descriptor for item in handover.listening), *keeper, *ends]


def _write(pieces: Iterable[bytes]) -> int:
    """Return the descriptor of a memory file with these pieces."""
    descriptor = os.memfd_create("director-handover", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines(pieces)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
