"""The settings of systemd for the director's service and its socket units."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from director.doctor.facts import Unit

TIMEOUT = 10.0
"""Seconds for systemctl."""
SERVICE = "director.service"
"""The service that is assumed if no director runs."""
PROPERTIES = (
    "Id,LoadState,User,Group,KillMode,ExitType,OOMPolicy,Restart,StartLimitIntervalUSec,StartLimitBurst,RuntimeDirectory,"
    "RuntimeDirectoryPreserve,TriggeredBy,TriggerLimitIntervalUSec,TriggerLimitBurst,PartOf,BindsTo,RemoveOnStop,Listen"
)
UNIT = re.compile(r"/([^/\n]+\.service)$", re.MULTILINE)


def units(process: int | None, search: str) -> tuple[Unit, ...]:
    """The director's service and the socket units that start it; empty: systemd has none of them.

    Args:
        process: of the director; None: it does not run, so the usual service is taken.
        search: folders with systemctl, as in PATH.
    """
    program = shutil.which("systemctl", path=search)
    service = SERVICE if process is None else service_of(process)
    if program is None or service is None:
        return ()
    found = _show(program, [service])
    if not found or found[0].settings.get("LoadState") != "loaded":
        return ()
    sockets = found[0].words("TriggeredBy")
    return (*found, *(_show(program, sockets) if sockets else ()))


def service_of(process: int) -> str | None:
    """The service of a process; None: it has none, or it cannot be read."""
    try:
        return service_in(Path(f"/proc/{process}/cgroup").read_text())
    except OSError:
        return None


def service_in(text: str) -> str | None:
    """The service whose control group is in the lines of /proc/PID/cgroup; None: there is none."""
    match = UNIT.search(text)
    return match[1] if match else None


def _show(program: str, names: list[str]) -> tuple[Unit, ...]:
    command = [program, "show", "--no-pager", f"--property={PROPERTIES}", "--", *names]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return read(result.stdout) if result.returncode == 0 else ()


def read(text: str) -> tuple[Unit, ...]:
    """The units in the output of `systemctl show`: lines `NAME=VALUE`, an empty line between two units."""
    found = []
    for block in text.strip().split("\n\n"):
        settings = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if name := settings.pop("Id", ""):
            found.append(Unit(name=name, settings=settings))
    return tuple(found)
