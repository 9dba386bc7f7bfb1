"""Replaces the program of this process by another one, in place: same process, same sockets, new program.

The other program is run beside this one first, to see whether it starts at all, knows the configuration, and
can read what is handed over. Whatever is wrong with it is found while this one serves on.
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
"""Names the descriptor of the document to the successor."""
PROBE_OPTION = "--can-take-over"
PROBE_WITHIN = 30.0
"""Seconds in which a program must have said that it can take over."""
DEFERRED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
"""They wait until the successor listens to them."""
_TOLD = 500
"""Characters of what a program says about its troubles that are passed on."""
_UNIT_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class CannotReplace(DirectorError):
    """Another program cannot take over; this one serves on."""


def command() -> list[str]:
    """How this program was started, to be started again: what stands at its path by then."""
    return [sys.executable, *sys.orig_argv[1:]]


async def probe() -> str:
    """Ask the program that would be started whether it can take over. Returns its version.

    Raises CannotReplace with the end of what it says.
    """
    arguments = [*command(), PROBE_OPTION, str(FORMAT)]
    try:
        with anyio.fail_after(PROBE_WITHIN):
            done = await anyio.run_process(arguments, stdin=subprocess.DEVNULL, check=False)
    except TimeoutError:
        raise CannotReplace(f"{arguments[0]} does not say within {PROBE_WITHIN:.0f} s that it can") from None
    except OSError as exc:
        raise CannotReplace(f"{arguments[0]} cannot be run: {exc.strerror}") from exc
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip() or "it says nothing"
        raise CannotReplace(f"the program ends with {done.returncode}: {output[-_TOLD:]}")
    return done.stdout.decode(errors="replace").strip()


def replace(handover: Handover, memory: Memory, environ: Mapping[str, str]) -> None:
    """Become the other program. Returns only by CannotReplace; everything is as it was then."""
    try:
        document = _write(encode(handover, memory))
    except OSError as exc:
        raise CannotReplace(f"there is no room for what is to be handed over: {exc.strerror}") from exc
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
    """From now on they wait, for a successor too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)


def listen_to_signals() -> None:
    """From now on signals are answered; until then they have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)


def ignore_until_served() -> None:
    """A program that only begins is not ended by a wish to be replaced or to read its file."""
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def handed_over(environ: MutableMapping[str, str]) -> Inherited | None:
    """What a predecessor has left in this process; None: there was none. Takes it out of `environ`.

    Raises HandoverError; its sockets are closed by nobody then, and the director is to end.
    """
    text = environ.pop(VARIABLE, "")
    if not text:
        return None
    try:
        with open(int(text), "rb") as file:
            file.seek(0)
            inherited = decode(file.read())
    except (OSError, ValueError) as exc:
        raise HandoverError(f"{VARIABLE} = {text!r} names no document that can be read: {exc}") from exc
    for descriptor in _descriptors(inherited.handover):
        os.set_inheritable(descriptor, False)
    return inherited


def _descriptors(handover: Handover) -> list[int]:
    ends = [end for item in handover.connections for end in (item.client, item.auth) if end >= 0]
    keeper = [handover.keeper.descriptor] if handover.keeper else []
    return [*(item.descriptor for item in handover.listening), *keeper, *ends]


def _write(pieces: Iterable[bytes]) -> int:
    """A descriptor of memory with this in it."""
    descriptor = os.memfd_create("director-handover", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines(pieces)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
