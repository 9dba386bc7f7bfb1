"""Dialogues recorded with Dovecot 2.3's director, played at this project's admin socket."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.conformance.commands import NOT_BY_HASH
from tests.conformance.real_operations import played_node, real_node
from tests.conformance.recording import END, Recording, Section, differences, read
from tests.conformance.serving import admin_socket
from tests.unit.service.parts import Node

pytestmark = pytest.mark.anyio

SILENCE = b"<SILENCE>"
DIFFERENT = {
    "doveadm director move alice 127.0.1.3": "a second move, to the same host, waits for the first one",
    "doveadm director move newuser 127.0.1.2": NOT_BY_HASH,
    "doveadm director status newuser": "the command before moved no user",
    "move, then move again before the kill finished": "a user who was on no host has no sessions to be ended",
    "user/director commands": NOT_BY_HASH,
}
"""Sections of recordings that this project answers differently on purpose, with the reason."""

RECORDINGS = [
    *("handshake", "queries", "status-and-map", "hosts", "raw-hosts", "all-down", "refused"),
    *("users", "raw-users", "members", "ring"),
]


@pytest.mark.parametrize("name", RECORDINGS)
async def test_every_recorded_dialogue_is_answered_as_by_dovecots_director(name: str, folder: Path) -> None:
    recording = read(name)
    async with played_node(recording) as node:
        found = await _played(recording, node, folder)
    assert unexpected(recording, found) == []


@pytest.mark.parametrize("name", ["handshake", "refused"])
async def test_every_refused_line_is_logged_as_by_dovecots_director(name: str, folder: Path) -> None:
    recording = read(name)
    lines: list[str] = []
    async with (
        real_node(recording.hosts) as node,
        admin_socket(node.operations, folder / "admin", lines) as path,
    ):
        for section in recording.sections:
            await _play(section, path)
    expected = [f'reason="{text}' for section in recording.sections for text in section.log]
    assert [text in line for text, line in zip(expected, lines, strict=True)] == [True] * len(lines)


def unexpected(recording: Recording, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return unintended differences, and intended differences that are missing."""
    differs = {title for title, _ in found}
    same = [
        (section.title, "") for section in recording.sections if section.title in DIFFERENT.keys() - differs
    ]
    return [(title, what) for title, what in found if title not in DIFFERENT] + same


async def _played(recording: Recording, node: Node, folder: Path) -> list[tuple[str, str]]:
    """Play all sections of a recording, and return the differences."""
    found = []
    async with admin_socket(node.operations, folder / "admin") as path:
        for section in recording.sections:
            found += [(section.title, what) for what in await _play(section, path)]
    return found


async def _play(section: Section, path: str) -> list[str]:
    """Send the recorded requests one by one, and return the answers that differ from the recording."""
    found = []
    async with await anyio.connect_unix(path) as stream:
        client = _Client(stream)
        for request, replies in _exchanges(section):
            await client.send(request)
            got = [await client.line() for _ in replies]
            if replies == [END] and got != [END]:
                # this project gives the reason before it closes the connection, Dovecot 2.3's director only
                # closes it
                found += [] if section.log and got[0].startswith(section.log[0].encode()) else [_text(got[0])]
                got = [await client.line()]
            any_order = request.startswith(b"USER-LIST")
            found += differences([_text(line) for line in replies], [_text(line) for line in got], any_order)
    return found


def _exchanges(section: Section) -> list[tuple[bytes, list[bytes]]]:
    exchanges: list[tuple[bytes, list[bytes]]] = [(b"", [])]
    for side, line in section.dialogue:
        if side == "C":
            exchanges.append((line + b"\n", []))
        else:
            exchanges[-1][1].append(line)
    return exchanges


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")


class _Client:
    """Reads lines. Any end of the connection reads as END."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        self._read = b""

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def line(self) -> bytes:
        try:
            with anyio.fail_after(5):
                while b"\n" not in self._read:
                    self._read += await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return END
        except TimeoutError:
            return SILENCE
        line, _, self._read = self._read.partition(b"\n")
        return line
