"""Dialogues recorded with the original, played against our admin socket."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from director.service.endpoints.admin import AdminOperations
from tests.conformance.fake_operations import FakeOperations
from tests.conformance.real_operations import real_operations
from tests.conformance.recording import END, Recording, Section, differences, read
from tests.conformance.serving import admin_socket

pytestmark = pytest.mark.anyio

SILENCE = b"<SILENCE>"

RECORDINGS = ["handshake", "queries", "status-and-map", "hosts", "raw-hosts", "all-down", "refused"]
CHANGES_OF_USERS = ["users", "raw-users", "members"]


@pytest.mark.parametrize("name", RECORDINGS)
async def test_every_recorded_dialogue_is_answered_as_by_the_original(name: str, folder: Path) -> None:
    recording = read(name)
    async with real_operations(recording.hosts, recording.users) as operations:
        found = await _played(recording, operations, folder)
    assert found == []


@pytest.mark.parametrize("name", [*RECORDINGS, "ring", *CHANGES_OF_USERS])
async def test_the_fake_that_other_tests_use_answers_as_the_original(name: str, folder: Path) -> None:
    recording = read(name)
    operations = FakeOperations(recording.hosts, recording.users, recording.members)
    assert await _played(recording, operations, folder) == []


@pytest.mark.parametrize("name", ["handshake", "refused"])
async def test_every_refused_line_is_logged_as_by_the_original(name: str, folder: Path) -> None:
    recording = read(name)
    lines: list[str] = []
    async with admin_socket(FakeOperations(recording.hosts), folder / "admin", lines) as path:
        for section in recording.sections:
            await _play(section, path)
    expected = [f'reason="{text}' for section in recording.sections for text in section.log]
    assert [text in line for text, line in zip(expected, lines, strict=True)] == [True] * len(lines)


async def _played(recording: Recording, operations: AdminOperations, folder: Path) -> list[tuple[str, str]]:
    """Play all sections of a recording; what differs."""
    found = []
    async with admin_socket(operations, folder / "admin") as path:
        for section in recording.sections:
            found += [(section.title, what) for what in await _play(section, path)]
    return found


async def _play(section: Section, path: str) -> list[str]:
    """Send what the client sent; what the server answers otherwise than recorded, request by request."""
    found = []
    async with await anyio.connect_unix(path) as stream:
        client = _Client(stream)
        for request, replies in _exchanges(section):
            await client.send(request)
            got = [await client.line() for _ in replies]
            if replies == [END] and got != [END]:
                # Ours says why before it closes the connection, where the original only closes it
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
    """Reads lines; the end of the connection, however it comes, reads as END."""

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
