"""What systemd was told about the director: the settings of its service and of its sockets."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from director.doctor.facts import Unit

TIMEOUT = 10.0
"""Seconds for systemctl."""
SERVICE = "director.service"
"""Where no process says of which unit it is."""
PROPERTIES = (
    "Id,LoadState,User,Group,KillMode,ExitType,OOMPolicy,Restart,StartLimitIntervalUSec,StartLimitBurst,RuntimeDirectory,"
    "RuntimeDirectoryPreserve,TriggeredBy,TriggerLimitIntervalUSec,TriggerLimitBurst,PartOf,BindsTo,RemoveOnStop,Listen"
)
UNIT = re.compile(r"/([^/\n]+\.service)$", re.MULTILINE)


def units(process: int | None, search: str) -> tuple[Unit, ...]:
    """The service of a director's process, or the usual one where it does not run, and the socket units that
    start it; empty: systemd has none of them, or does not run here. search: as in PATH."""
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
    """The service of a process; None: it is in none, or cannot be seen."""
    try:
        return service_in(Path(f"/proc/{process}/cgroup").read_text())
    except OSError:
        return None


def service_in(text: str) -> str | None:
    """The service whose own control group is in the lines of /proc/PID/cgroup; None: there is none."""
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
    """What `systemctl show` printed: lines `NAME=VALUE`, an empty line between two units."""
    found = []
    for block in text.strip().split("\n\n"):
        settings = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if name := settings.pop("Id", ""):
            found.append(Unit(name=name, settings=settings))
    return tuple(found)
