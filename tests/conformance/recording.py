"""Recorded dialogues of Dovecot 2.3's director and the output of its command line, read from `recordings/`.

A file begins with the state in which it was recorded:

    host: ADDRESS CHANGED            a configured host, 100 vhosts, up since CHANGED
    user: NAME HOST                  an assignment
    member: ADDRESS PORT KIND STATUS a director of the ring
    names: NAME...                   what `doveadm director map -f <names>` reads

Sections follow, each on the state that the sections before left: `$ COMMAND` with `exit`, `out:` and `err:`
lines, or `## TITLE`; then the lines that both sides sent (`C:` client, `S:` server; backslashes as in Python,
<EOF> for the end), and the lines that Dovecot wrote to its log (`L:`, the beginning).

<time> stands for a Unix time, <when> for a local time, <n> for a number, <socket> for the path given to -a. A
line that begins with ~ is compared without regard to the width of its columns.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import msgspec

from director.records import HostInfo, MemberInfo

FOLDER = Path(__file__).parent / "recordings"
END = b"<EOF>"

PLACEHOLDERS = {
    "<time>": r"[0-9]{10}",
    "<when>": r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}",
    "<n>": r"[0-9]+",
    "<socket>": r"/\S+",
}


class Section(msgspec.Struct):
    """A run of doveadm, or a connection."""

    title: str
    command: list[str]
    """The arguments after `doveadm`; empty: only the dialogue is known."""
    exit_code: int = 0
    out: list[str] = []
    err: list[str] = []
    log: list[str] = []
    dialogue: list[tuple[str, bytes]] = []
    """("C" or "S", line without LF)."""


class Recording(msgspec.Struct):
    hosts: list[HostInfo] = []
    users: list[tuple[str, str]] = []
    members: list[MemberInfo] = []
    names: list[str] = []
    sections: list[Section] = []


def read(name: str) -> Recording:
    """Return the recording `recordings/NAME.txt`."""
    recording = Recording()
    for line in (FOLDER / f"{name}.txt").read_text().splitlines():
        kind, _, text = line.partition(" ")
        match kind:
            case "host:":
                address, changed = text.split()
                recording.hosts.append(HostInfo(address=address, weight=100, up=True, changed=int(changed)))
            case "user:":
                user, host = text.split()
                recording.users.append((user, host))
            case "member:":
                recording.members.append(_member(text))
            case "names:":
                recording.names = text.split()
            case "$":
                recording.sections.append(Section(text, shlex.split(text)[1:]))
            case "##":
                recording.sections.append(Section(text, []))
            case "exit":
                recording.sections[-1].exit_code = int(text)
            case "out:":
                recording.sections[-1].out.append(text)
            case "err:":
                recording.sections[-1].err.append(text)
            case "L:":
                recording.sections[-1].log.append(text)
            case "C:" | "S:":
                recording.sections[-1].dialogue.append((kind[0], _bytes(text)))
    return recording


def differences(expected: Sequence[str], got: Sequence[str], any_order: bool = False) -> list[str]:
    """Return the lines that differ from the recording. Blanks at the end of a line do not count.

    Args:
        expected: the recorded lines.
        got: the lines of this run.
        any_order: compare in any order: Dovecot 2.3's director lists users by age, this director by hash.
    """
    got = [line.rstrip(" ") for line in got]
    if any_order:
        expected, got = sorted(expected), sorted(got)
    pairs = zip(expected, got, strict=False)
    found = [f"expected {want!r}, got {line!r}" for want, line in pairs if not matches(want, line)]
    found += [f"missing {line!r}" for line in expected[len(got) :]]
    return found + [f"not expected {line!r}" for line in got[len(expected) :]]


def matches(expected: str, line: str) -> bool:
    """Whether `line` is `expected` with all placeholders filled in."""
    parts = re.split(f"({'|'.join(PLACEHOLDERS)})", expected.removeprefix("~"))
    pattern = "".join(PLACEHOLDERS.get(part) or re.escape(part) for part in parts)
    if expected.startswith("~"):
        pattern = pattern.replace(r"\ ", " +")
    return re.fullmatch(pattern, line) is not None


def _member(text: str) -> MemberInfo:
    address, port, kind, status = text.split(" ", 3)
    if kind == "self":
        return MemberInfo(address=address, port=int(port), kind=kind, status=status, sync_ms=0)
    return MemberInfo(
        address=address,
        port=int(port),
        kind=kind,
        status=status,
        sync_ms=1,
        bytes_in=382,
        bytes_out=1576,
        buffered=0,
        buffered_peak=225,
        last_read=1_795_452_414,
        last_write=1_795_452_415,
    )


def _bytes(text: str) -> bytes:
    return text.encode().decode("unicode_escape").encode("latin-1")
