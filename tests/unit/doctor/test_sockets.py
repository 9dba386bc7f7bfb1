"""Checks of sockets and rights, on given facts and on files of this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from director.doctor.facts import Facts, File, ProcessUser, Settings, Unit
from director.doctor.findings import FAULT, OK, UNSEEN, WARNING, Finding
from director.doctor.gatherer import file_at
from director.doctor.sockets import check
from director.dovecot.doveconf import Doveconf, read

ROOT = ProcessUser(uid=0, gids=(0,), name="root")
DOVECOT = ProcessUser(uid=103, gids=(106,), name="dovecot")
DIRECTOR = ProcessUser(uid=990, gids=(990, 106), name="director")
SETTINGS = Settings()


def conf(release: str) -> Doveconf:
    return read(f"# {release}.1 (0): /etc/dovecot/dovecot.conf\n", "text")


def file(path: str, kind: str = "socket", mode: int = 0o600, uid: int = 103, gid: int = 106) -> File:
    return File(path=path, kind=kind, mode=mode, uid=uid, gid=gid, used=True)


def proxy(who: ProcessUser, release: str = "2.3", **others: File) -> Facts:
    """A machine without problems for the user `dovecot`, apart from `others`, by the names of settings."""
    files = {
        "login": file(SETTINGS.login, mode=0o666),
        "notify": file(SETTINGS.notify, kind="fifo", mode=0o666),
        "userdb": file(SETTINGS.userdb),
        "admin": file(SETTINGS.admin),
        "auth": file(SETTINGS.auth),
        "auth_userdb": file(SETTINGS.auth_userdb, mode=0o666),
        "ipc": file(SETTINGS.ipc),
        "anvil": file(SETTINGS.anvil, mode=0o660, uid=0),
    } | others
    return Facts(
        settings=SETTINGS,
        director_as=who,
        running=True,
        conf=conf(release),
        files={one.path: one for one in files.values()},
    )


def told(facts: Facts) -> list[Finding]:
    return [one for one in check(facts) if one.level != OK]


@pytest.mark.parametrize("who", [ROOT, DOVECOT])
@pytest.mark.parametrize("release", ["2.3", "2.4"])
def test_a_correct_machine_has_no_findings(who: ProcessUser, release: str) -> None:
    assert told(proxy(who, release)) == []


def test_a_user_who_may_not_ask_the_director_gets_no_faults_about_its_rights() -> None:
    other_user = ProcessUser(uid=65534, gids=(65534,), name="nobody")
    findings = told(msgspec.structs.replace(proxy(other_user), running=None))
    assert [(one.level, one.check) for one in findings] == [
        (UNSEEN, "auth"),
        (UNSEEN, "auth_userdb"),
        (UNSEEN, "kick_channel"),
    ]


def gone(name: str) -> dict[str, File]:
    return {name: File(path=getattr(SETTINGS, name))}


def deaf(name: str, kind: str = "socket") -> dict[str, File]:
    return {name: msgspec.structs.replace(file(getattr(SETTINGS, name), kind=kind, mode=0o666), used=False)}


@pytest.mark.parametrize(
    ("others", "check", "words"),
    [
        (gone("login"), "login", "there is no such socket"),
        (deaf("login"), "login", "no process listens"),
        ({"login": file(SETTINGS.login, mode=0o660)}, "login", "has mode 0660"),
        (gone("userdb"), "userdb", "there is no such socket"),
        (gone("notify"), "notify", "there is no such FIFO"),
        ({"notify": file(SETTINGS.notify, kind="file")}, "notify", "there is no such FIFO"),
        (deaf("notify", "fifo"), "notify", "no process has it open"),
        (gone("auth"), "auth", "no process listens"),
        (deaf("auth_userdb"), "auth_userdb", "no process listens"),
        ({"auth": file(SETTINGS.auth, uid=0, gid=0)}, "auth", "dovecot may not connect"),
        (
            {"auth_userdb": file(SETTINGS.auth_userdb, mode=0o666, uid=1, gid=1)},
            "auth_userdb",
            "does not belong to",
        ),
        (gone("ipc"), "kick_channel", "no process listens"),
        ({"ipc": file(SETTINGS.ipc, uid=0, gid=0)}, "kick_channel", "dovecot may not connect"),
    ],
)
def test_a_problem_has_exactly_one_finding(others: dict[str, File], check: str, words: str) -> None:
    (finding,) = told(proxy(DOVECOT, **others))
    assert (finding.level, finding.check) == (FAULT, check)
    assert words in finding.found
    assert finding.why


@pytest.mark.parametrize(
    ("name", "there"),
    [("notify", "missing"), ("login", "missing"), ("login", "socket")],
)
def test_a_removed_listener_of_systemd_is_opened_again_by_its_unit(name: str, there: str) -> None:
    """systemd refuses to start a socket unit while its service is active."""
    path: str = getattr(SETTINGS, name)
    missing = msgspec.structs.replace(file(path, kind=there, mode=0o666), used=False)
    units = (
        Unit(name="director.service", settings={"TriggeredBy": "a.socket director-x.socket"}),
        Unit(name="a.socket", settings={"Listen": f"{path}-other (Stream)"}),
        Unit(name="director-x.socket", settings={"Listen": f"{path} (FIFO)"}),
    )
    facts = msgspec.structs.replace(proxy(DOVECOT, **{name: missing}), units=units)
    (finding,) = told(facts)
    assert finding.fix == ("systemctl restart director.service director-x.socket",)
    (stopped,) = told(msgspec.structs.replace(facts, running=False))
    assert stopped.fix == ("systemctl start director",)


def test_a_director_with_its_own_user_is_told_which_listeners_need_that_user() -> None:
    findings = {one.check: one for one in told(proxy(DIRECTOR))}
    assert set(findings) == {"auth", "auth_userdb", "kick_channel"}
    assert "    user = director" in findings["auth"].fix
    assert "    group = $default_internal_group" in findings["kick_channel"].fix
    assert "usermod -aG dovecot director" in findings["kick_channel"].fix


def test_a_finding_says_that_before_2_4_2_only_root_may_use_anvil() -> None:
    (finding,) = told(proxy(DOVECOT, "2.4", anvil=file(SETTINGS.anvil, uid=0, gid=0)))
    assert (finding.level, finding.check) == (FAULT, "kick_channel")
    assert finding.fix[:4] == (
        "service anvil {",
        "  unix_listener anvil {",
        "    mode = 0660",
        "    group = dovecot",
    )


@pytest.mark.parametrize(
    ("kick", "level", "words"),
    [("none", WARNING, 'kick = "none"'), ("anvil", FAULT, "but Dovecot 2.3 has ipc")],
)
def test_a_kick_channel_that_ends_no_session_is_a_finding(kick: str, level: str, words: str) -> None:
    facts = msgspec.structs.replace(proxy(ROOT), settings=msgspec.structs.replace(SETTINGS, kick=kick))
    (finding,) = told(facts)
    assert (finding.level, finding.check) == (level, "kick_channel")
    assert words in finding.found


def test_a_file_that_may_not_be_examined_is_unseen_and_not_a_fault() -> None:
    hidden = File(path=SETTINGS.login, kind="hidden")
    (finding,) = told(proxy(DOVECOT, login=hidden))
    assert (finding.level, finding.fix) == (UNSEEN, ("sudo director doctor",))


def test_sockets_of_another_machine_are_not_checked() -> None:
    assert list(check(msgspec.structs.replace(proxy(DOVECOT), here=False))) == []


def test_a_socket_is_used_while_a_process_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert (file_at(path).kind, file_at(path).used) == ("socket", False)
        listener.listen()
        assert file_at(path).used is True
    assert file_at(path).used is False


def test_a_fifo_is_used_while_a_process_reads_it(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    os.mkfifo(path, 0o640)
    assert file_at(path) == File(
        path=path, kind="fifo", mode=0o640, uid=os.getuid(), gid=os.stat(path).st_gid, used=False
    )
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert file_at(path).used is True
    os.close(reader)


def test_files_and_folders_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    kinds: list[Any] = [file_at(str(tmp_path / name)).kind for name in ("file", ".", "none")]
    assert kinds == ["file", "folder", "none"]


FOLDER = "/run/dovecot/login/director"
DOVENULL = 107


def in_login(folder: File, login: File) -> Facts:
    """A proxy with this folder for the director's sockets, and this socket in it."""
    chroot = File(path="/run/dovecot/login", kind="folder", mode=0o750, gid=DOVENULL)
    return proxy(DOVECOT, folder=folder, login=login, chroot=chroot)


def test_a_folder_that_login_processes_may_not_enter_is_a_fault() -> None:
    folder = File(path=FOLDER, kind="folder", mode=0o700)
    (finding,) = told(in_login(folder, file(SETTINGS.login, mode=0o666)))
    assert (finding.level, finding.check, finding.fix) == (FAULT, "login_folder", (f"chmod 0755 {FOLDER}",))


def test_rights_of_the_group_of_login_processes_are_enough() -> None:
    folder = File(path=FOLDER, kind="folder", mode=0o750, gid=DOVENULL)
    assert told(in_login(folder, file(SETTINGS.login, mode=0o660, gid=DOVENULL))) == []
