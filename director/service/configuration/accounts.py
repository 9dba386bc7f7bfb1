"""Runs a function as another user of this machine, as a service manager would start the director."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from director.errors import EX_NOT_FOUND, EX_REFUSED, DirectorError

Found = TypeVar("Found")


class NoSuchAccount(DirectorError):
    """This machine has no such user or group."""

    exit_code = EX_NOT_FOUND


class NotAllowed(DirectorError):
    """Only root can become another user."""

    exit_code = EX_REFUSED


class Account(NamedTuple):
    """A user of this machine, with the groups of its processes."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def account(text: str) -> Account:
    """Return the account that `USER` or `USER:GROUP` names. As in a unit, both may be names or numbers.

    Raises NoSuchAccount.
    """
    user, colon, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise NoSuchAccount(
            f"there is no user {user!r} on this machine: create it, or name another"
        ) from None
    gid = entry.pw_gid
    if colon:
        try:
            gid = (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
        except KeyError:
            text = f"there is no group {group!r} on this machine: create it, or name another"
            raise NoSuchAccount(text) from None
    groups = tuple(dict.fromkeys([gid, *os.getgrouplist(entry.pw_name, gid)]))
    return Account(entry.pw_name, entry.pw_uid, gid, groups)


def run_as(account: Account, action: Callable[[], Found], kind: type[Found]) -> Found:
    """Return the result of `action`, called in a process of this user.

    Args:
        kind: the type of the result, which comes back as JSON.

    Raises NotAllowed, and DirectorError if the process ends without a result.
    """
    if os.geteuid() == account.uid and os.getegid() == account.gid:
        return action()
    if os.geteuid() != 0:
        raise NotAllowed(f"only root can check as {account.name}: run it as root, or as {account.name}")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            os.setgroups(account.groups)
            os.setgid(account.gid)
            os.setuid(account.uid)
            with open(writing, "wb") as out:
                out.write(msgspec.json.encode(action()))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as answer:
        output = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise DirectorError(f"the check as {account.name} ended without a result")
    return msgspec.json.decode(output, type=kind)
