"""Checks of systemd's units: settings that close the sockets to Dovecot when the director ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

from director.doctor.facts import Facts, Unit, UnitUser
from director.doctor.findings import FAULT, OK, UNSEEN, WARNING, Finding

STALL = "login processes stall when the director ends"
STOPPED = "login processes stall then"
NEVER = ("", "0", "infinity")
"""Values of an interval that mean no limit."""
RUN = ("/run", "/var/run")


def check(facts: Facts) -> Iterator[Finding]:
    """All findings about units; none if systemd does not run the director."""
    if facts.unit_user is not None:
        yield from _user(facts.unit_user)
    services = [unit for unit in facts.units if unit.name.endswith(".service")]
    sockets = [unit for unit in facts.units if unit.name.endswith(".socket")]
    for service in services:
        found = [
            *_keeper(facts, service),
            *_start(service, sockets),
            *_folders(facts, service),
            *_sockets(facts, service, sockets),
        ]
        yield from found
        if not found:
            yield Finding(
                area="sockets", level=OK, check="units", found=f"{service.name}: KillMode and limits"
            )


def _finding(found: str, why: str, unit: str, section: str, *lines: str) -> Finding:
    fix = (f"[{section}]                # systemctl edit {unit}", *lines)
    return Finding(area="sockets", level=WARNING, check="units", found=found, why=why, fix=fix)


def _user(user: UnitUser) -> Iterator[Finding]:
    """Whether the director can start as the user that its unit names, and not only as root."""
    shown = f"{user.unit}: User={user.name}"
    if user.unseen:
        yield Finding(area="sockets", level=UNSEEN, check="unit_user", found=shown, why=user.unseen)
    elif not user.problems:
        found = f"{shown} can read the configuration and its secrets"
        yield Finding(area="sockets", level=OK, check="unit_user", found=found)
    for problem in user.problems:
        yield Finding(
            area="sockets",
            level=FAULT,
            check="unit_user",
            found=f"{shown}: {problem}",
            why="the director cannot start as this user, even if it can as root",
            fix=(f"director config check --user {user.name}      # repeat until it prints good",),
        )


def _keeper(facts: Facts, service: Unit) -> Iterator[Finding]:
    """Settings that end the keeper with its director. They do not affect `director keep`."""
    if not _has_keeper(facts):
        return
    with_it = "ends the keeper with the director"
    wrong = (
        ("KillMode", "control-group", ("process", "none"), "process", f"systemd {with_it}"),
        ("OOMPolicy", "stop", ("stop", "continue"), "stop", f"when memory runs out, systemd {with_it}"),
        ("ExitType", "main", ("main",), "main", "no new director is started while the keeper runs"),
    )
    for name, default, good, value, reason in wrong:
        found = service.settings.get(name) or default
        if found not in good:
            yield _finding(
                f"{service.name}: {name}={found}",
                f"{reason}: {STALL}",
                service.name,
                "Service",
                f"{name}={value}",
            )


def _has_keeper(facts: Facts) -> bool:
    """Whether the director has started a keeper, or will: socket units do not hold all sockets."""
    if facts.status is not None and facts.status.sockets_kept_by != "keeper":
        return False
    if facts.status is None and any(unit.name.endswith(".socket") for unit in facts.units):
        return False
    return facts.keeper is None or not facts.keeper.standalone


def _start(service: Unit, sockets: list[Unit]) -> Iterator[Finding]:
    restart = service.settings.get("Restart") or "no"
    if restart not in ("always", "on-failure", "on-abnormal"):
        why = "after a crash the director is not started again, and clients wait at its sockets"
        yield _finding(f"{service.name}: Restart={restart}", why, service.name, "Service", "Restart=always")
    interval = service.settings.get("StartLimitIntervalUSec", "")
    if interval not in NEVER:
        burst = service.settings.get("StartLimitBurst") or "some"
        closes = " and closes the sockets" if sockets else ""
        why = f"after {burst} starts in that time systemd stops trying{closes}: {STALL}"
        found = f"{service.name}: StartLimitIntervalSec={interval}"
        yield _finding(found, why, service.name, "Unit", "StartLimitIntervalSec=0")


def _folders(facts: Facts, service: Unit) -> Iterator[Finding]:
    """Folders of the sockets that systemd removes when the service has ended."""
    if (service.settings.get("RuntimeDirectoryPreserve") or "no") != "no":
        return
    settings = facts.settings
    paths = [path for path in (settings.login, settings.userdb, settings.notify) if path]
    for name in service.words("RuntimeDirectory"):
        folders = [os.path.join(run, name) for run in RUN]
        inside = [path for path in paths if any(path.startswith(f"{folder}/") for folder in folders)]
        if inside:
            found = f"{service.name}: RuntimeDirectory={name}, and {inside[0]} is in it"
            why = f"systemd removes that folder when the director ends, and the sockets with it: {STALL}"
            yield _finding(found, why, service.name, "Service", "RuntimeDirectoryPreserve=yes")


def _sockets(facts: Facts, service: Unit, sockets: list[Unit]) -> Iterator[Finding]:
    for unit in sockets:
        interval = unit.settings.get("TriggerLimitIntervalUSec", "")
        if interval not in NEVER:
            found = f"{unit.name}: TriggerLimitIntervalSec={interval}"
            why = f"systemd closes the socket after too many starts of the director: {STALL}"
            yield _finding(found, why, unit.name, "Socket", "TriggerLimitIntervalSec=0")
        if unit.settings.get("RemoveOnStop") == "no" and _is_for_dovecot(facts, unit):
            why = f"when the socket unit stops, its file stays without a listener: {STOPPED}"
            found = f"{unit.name}: RemoveOnStop=no"
            yield _finding(found, why, unit.name, "Socket", "RemoveOnStop=yes")
        for name in ("PartOf", "BindsTo"):
            if service.name in unit.words(name):
                why = f"systemd closes the socket when the director is stopped or restarted: {STALL}"
                found = f"{unit.name}: {name}={service.name}"
                lines = (f"# remove {name}={service.name}",)
                yield _finding(found, why, unit.name, "Unit", *lines)


def _is_for_dovecot(facts: Facts, unit: Unit) -> bool:
    """Whether the unit opens the socket or the FIFO of login processes."""
    settings = facts.settings
    return unit.settings.get("Listen", "").partition(" (")[0] in (settings.login, settings.notify)
