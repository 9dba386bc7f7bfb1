"""Ends processes that would slow down all later tests.

anvil of Dovecot 2.4.1 uses a whole core once a login process has ended in which it ended a session
(docs/dovecot.md). Dovecot's master starts another anvil.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CPU = 2.0
"""More seconds of CPU than an anvil of a test needs."""
TICKS = os.sysconf("SC_CLK_TCK")


def end_spinning_anvils(cpu: float = CPU) -> list[int]:
    """Kill each anvil below this process that has used more than `cpu` seconds. Returns their pids."""
    found = [pid for pid, name, seconds in _below(os.getpid()) if name == "anvil" and seconds > cpu]
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _below(root: int) -> Iterator[tuple[int, str, float]]:
    """Yield all descendants of `root`: pid, name, seconds of CPU."""
    parents: dict[int, int] = {}
    processes: dict[int, tuple[str, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = path.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            words = fields.split()
            parents[int(pid)] = int(words[1])
            processes[int(pid)] = name, (int(words[11]) + int(words[12])) / TICKS
    for pid, (name, seconds) in processes.items():
        parent = parents[pid]
        while parent and parent != root:
            parent = parents.get(parent, 0)
        if parent == root:
            yield pid, name, seconds
