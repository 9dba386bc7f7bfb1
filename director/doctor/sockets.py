"""Checks of sockets, FIFO and rights on this machine. docs/dovecot.md, "Sockets", describes them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from director.doctor.facts import Facts, File
from director.doctor.findings import FAULT, OK, UNSEEN, WARNING, Finding, block


def check(facts: Facts) -> Iterator[Finding]:
    """All findings about sockets; none if the configuration is that of another machine."""
    if not facts.here:
        return
    yield from _own_sockets(facts)
    yield from _login_folder(facts)
    yield from _fifo(facts)
    yield from _auth(facts)
    yield from _kick_channel(facts)


def _finding(
    level: str, check: str, found: str, why: str = "", fix: tuple[str, ...] = (), area: str = "sockets"
) -> Finding:
    return Finding(area=area, level=level, check=check, found=found, why=why, fix=fix)


def _own_sockets(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    for check, path, clients in (
        ("login", settings.login, "login processes"),
        ("userdb", settings.userdb, "lmtp and doveadm"),
        ("admin", settings.admin, "doveadm director"),
    ):
        if not path:
            continue
        file = facts.file(path)
        if file.kind == "hidden":
            yield _hidden(check, file)
        elif file.kind == "socket" and file.used is not False:
            yield _finding(OK, check, f"{path}: a process listens" if file.used else path)
        else:
            state = "no process listens" if file.kind == "socket" else "there is no such socket"
            fix = _open_again(facts, path)
            yield _finding(FAULT, check, f"{path}: {state}", f"{clients} cannot reach the director", fix)
    login = facts.file(settings.login)
    if login.kind == "socket" and not _for_login_processes(facts, login, 0o6):
        why = "login processes run as dovenull and may not connect"
        lines = ("[listen.login]           # director.toml", 'mode = "0666"')
        yield _finding(FAULT, "login", f"{login.path} has mode {login.mode:04o}", why, lines)


def _login_folder(facts: Facts) -> Iterator[Finding]:
    folder = facts.file(os.path.dirname(facts.settings.login))
    elsewhere = folder.path != f"{facts.settings.base_dir}/login"
    if elsewhere and folder.kind == "folder" and not _for_login_processes(facts, folder, 0o1):
        why = "login processes run as dovenull and cannot reach the socket and FIFO in it"
        found = f"{folder.path} has mode {folder.mode:04o}"
        yield _finding(FAULT, "login_folder", found, why, (f"chmod 0755 {folder.path}",))


def _for_login_processes(facts: Facts, file: File, bits: int) -> bool:
    """Whether dovenull has these rights. Its group is that of `login/`, which Dovecot makes for it.

    Args:
        bits: rights as in the last digit of a mode.
    """
    login = facts.file(f"{facts.settings.base_dir}/login")
    theirs = login.kind == "folder" and file.gid == login.gid
    return file.mode & bits == bits or (theirs and file.mode >> 3 & bits == bits)


def _open_again(facts: Facts, path: str) -> tuple[str, ...]:
    """The command that opens a missing listener again; empty: there is none."""
    if facts.running is False:
        return ("systemctl start director",)
    # systemd opens no socket while its service runs. One command restarts both, the service first.
    service = next((unit.name for unit in facts.units if unit.name.endswith(".service")), "")
    opens = [unit.name for unit in facts.units if unit.settings.get("Listen", "").startswith(f"{path} (")]
    return (f"systemctl restart {service} {opens[0]}",) if service and opens else ()


def _fifo(facts: Facts) -> Iterator[Finding]:
    path = facts.settings.notify
    if not path:
        return
    file = facts.file(path)
    if file.kind == "hidden":
        yield _hidden("notify", file)
    elif file.kind != "fifo":
        why = "assignments expire although the users have sessions"
        fix = _open_again(facts, path)
        yield _finding(FAULT, "notify", f"{path}: there is no such FIFO", why, fix)
    elif file.used is False:
        why = "a login process that writes to it stalls with all its sessions, because no process reads"
        yield _finding(FAULT, "notify", f"{path}: no process has it open", why, ("systemctl start director",))
    else:
        yield _finding(OK, "notify", f"{path}: a process reads it" if file.used else path)


def _auth(facts: Facts) -> Iterator[Finding]:
    settings, process = facts.settings, facts.director_as
    for check, path, listener in (
        ("auth", settings.auth, "auth-login"),
        ("auth_userdb", settings.auth_userdb, "auth-userdb"),
    ):
        file = facts.file(path)
        if file.kind == "hidden":
            yield _hidden(check, file)
        elif file.kind != "socket" or file.used is False:
            why = "the director cannot ask auth, and logins wait"
            yield _finding(FAULT, check, f"{path}: no process listens", why, ("systemctl start dovecot",))
        elif facts.running is None:
            yield _not_checked(check, file)
        elif not file.writable_by(process):
            yield _finding(
                FAULT,
                check,
                f"{path}: mode {file.mode:04o}, and {process.name} may not connect",
                "the director cannot ask auth, and logins wait",
                _listener("auth", listener, f"user = {process.name}"),
            )
        elif check == "auth_userdb" and not (
            process.is_root or file.uid == process.uid or file.gid == process.gids[0]
        ):
            why = "auth answers look-ups of lmtp and doveadm only to root or the socket's owner or group"
            yield _finding(
                FAULT,
                check,
                f"{path} does not belong to {process.name}",
                why,
                _listener("auth", listener, f"user = {process.name}"),
            )
        else:
            yield _finding(OK, check, path)


def _kick_channel(facts: Facts) -> Iterator[Finding]:
    settings, release = facts.settings, facts.conf.release if facts.conf else ""
    name = {"2.3": "ipc", "2.4": "anvil"}.get(release, "")
    if settings.kick == "none":
        why = "old sessions of moved users continue beside the new sessions"
        fix = ("[dovecot]                # director.toml", 'kick = "auto"')
        yield _finding(WARNING, "kick_channel", 'kick = "none"', why, fix, area="kicks")
        return
    if not name:
        return
    if settings.kick not in ("auto", name):
        fix = ("[dovecot]                # director.toml", 'kick = "auto"')
        found = f'kick = "{settings.kick}", but Dovecot {release} has {name}'
        yield _finding(FAULT, "kick_channel", found, "no session is ended", fix, area="kicks")
        return
    file, process = facts.file(getattr(settings, name)), facts.director_as
    if file.kind == "hidden":
        yield _hidden("kick_channel", file, area="kicks")
    elif file.kind != "socket" or file.used is False:
        found, start = f"{file.path}: no process listens", ("systemctl start dovecot",)
        yield _finding(FAULT, "kick_channel", found, "no session is ended", start, area="kicks")
    elif facts.running is None:
        yield _not_checked("kick_channel", file, area="kicks")
    elif not file.writable_by(process):
        group = "$default_internal_group" if release == "2.3" else "dovecot"
        yield _finding(
            FAULT,
            "kick_channel",
            f"{file.path}: mode {file.mode:04o}, and {process.name} may not connect",
            "no session is ended: moved users stay on two backends",
            (
                *_listener(name, name, "mode = 0660", f"group = {group}"),
                f"usermod -aG dovecot {process.name}",
            ),
            area="kicks",
        )
    else:
        yield _finding(OK, "kick_channel", f"{name}: {file.path}", area="kicks")


def _listener(service: str, name: str, *lines: str) -> tuple[str, ...]:
    inner = block("unix_listener", name, *lines)
    return (f"service {service} {{", *(f"  {line}" for line in inner), "}")


def _hidden(check: str, file: File, area: str = "sockets") -> Finding:
    found = f"{file.path}: this user may not read {os.path.dirname(file.path)}"
    return _finding(UNSEEN, check, found, "", ("sudo director doctor",), area=area)


def _not_checked(check: str, file: File, area: str = "sockets") -> Finding:
    found = f"{file.path}: not known whether the director may connect, because this user may not ask it"
    return _finding(UNSEEN, check, found, "", ("sudo director doctor",), area=area)
