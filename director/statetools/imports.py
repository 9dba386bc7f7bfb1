"""`director state import`: an export into any store, by the merge rule of the ring.

The file is read twice: nothing is written before every line of it was found in order. What the store has
decided later stays, so an import can be repeated, and interrupted at any point.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

import msgspec

from director.core.placement.names import LONGEST_NAME
from director.core.placement.users import BUCKET_SHIFT, merged
from director.core.protocol.messages import HostRow, MemberRow
from director.core.protocol.stamps import bound_at
from director.core.tables.hosts import decode_rows, encode_rows, merge_rows
from director.core.tables.members import about, decode_member_rows, encode_member_rows, merge_member_rows
from director.errors import EX_DATA, ExportError, StoreProblem
from director.statetools.buckets import Names, Progress, Records, Tally, merge_names, merge_users
from director.statetools.exports import HOSTS, MEMBERS
from director.statetools.lines import (
    FORMAT,
    DocumentLine,
    End,
    Header,
    HostLine,
    Line,
    MemberLine,
    NameLine,
    UserLine,
    decode,
    host_row,
    is_ahead,
    key_of,
    member_row,
    name_in,
    user_record,
)
from state.base import EMPTY_VERSION, Document, Lost, StateStore, Swapped, check_document

LINE_LIMIT = 64 << 20
"""Bytes of a line; a document is one."""
GATHERED = 20_000
"""Users and names that are merged at a time. An export has them in the order of the buckets."""
EXPIRE, SKEW = 3 * 86400, 2.0
"""Seconds: `seen` may be rounded up by a third of the one, clocks may differ by the other."""
SAID_EVERY = 10_000
"""Lines from one word of progress to the next."""

Row = TypeVar("Row", HostRow, MemberRow)


class Imported(msgspec.Struct):
    """What an import came to, or would come to."""

    hosts: Tally
    members: Tally
    documents: Tally
    users: Tally
    names: Tally
    kept: list[str]
    """Documents that the store has with another content: they stay as they are."""
    clipped: int = 0
    """Lines with times more than an hour ahead of this machine's clock: these became one hour ahead."""
    first_clipped: int = 0
    """The number of the first of these lines."""


class ExportFile:
    """A file that was found to be a whole export. Raises ExportError where it is none."""

    def __init__(self, file: BinaryIO, name: str, now: float, progress: Progress) -> None:
        """file: can be read again from its start. name: for messages. now: Unix seconds."""
        self._file, self._name = file, name
        self._bound = bound_at(now, EXPIRE, SKEW)
        self.clipped = 0
        """Lines with times more than an hour ahead, and the first of them."""
        self.first_clipped = 0
        self.counts = End()
        self._size = file.seek(0, io.SEEK_END)
        for line in self.lines(progress):
            if isinstance(line, End):
                self.counts = line

    def lines(self, progress: Progress) -> Iterator[Line]:
        """All lines from the first to the last, each checked."""
        self._file.seek(0)
        found: Counter[object] = Counter()
        names = number = self.clipped = 0
        last: Line | None = None
        while text := self._file.readline(LINE_LIMIT):
            number += 1
            if number % SAID_EVERY == 0:
                progress(self._file.tell(), self._size)
            try:
                line = self._checked(text, last)
                if isinstance(line, HostLine | MemberLine | UserLine) and is_ahead(line, self._bound):
                    self.clipped += 1
                    self.first_clipped = self.first_clipped or number
                found[type(line)] += 1
                if isinstance(line, UserLine | NameLine):
                    names += name_in(line) is not None
                if isinstance(line, End):
                    _compare(line, found, names)
            except ValueError as exc:
                raise ExportError(self._name, number, str(exc)) from exc
            yield line
            last = line
        if not isinstance(last, End):
            raise ExportError(
                self._name, number, "the last line, which counts the others, is missing: cut off?"
            )

    def _checked(self, text: bytes, last: Line | None) -> Line:
        """Raises ValueError."""
        line = decode(text)
        if not text.endswith(b"\n"):
            raise ValueError("it has no end: the file was cut off, or the line is too long")
        if isinstance(line, Header) != (last is None):
            raise ValueError("the header is the first line, and only that")
        if isinstance(last, End):
            raise ValueError("there is more after the line that counts the others")
        match line:
            case Header() if line.format != FORMAT:
                raise ValueError(f"format {line.format}; this program reads {FORMAT}")
            case HostLine():
                self.host(line)
            case MemberLine():
                self.member(line)
            case DocumentLine():
                check_document(line.name)
                if line.name in (HOSTS, MEMBERS):
                    raise ValueError(f"{line.name} are written one a line, not as a document")
            case UserLine():
                self.user(line)
            case NameLine():
                key_of(line.key)
                if name_in(line) is None:
                    raise ValueError("a name without a name")
        return line

    def host(self, line: HostLine) -> HostRow:
        return host_row(line, self._bound)

    def member(self, line: MemberLine) -> MemberRow:
        return member_row(line, self._bound)

    def user(self, line: UserLine) -> tuple[int, Records]:
        """The bucket of a line, and its record."""
        user = user_record(line, self._bound)
        return user.key >> BUCKET_SHIFT, {user.key: user}


def _compare(end: End, found: Counter[object], names: int) -> None:
    """Raises ValueError where the last line counts something else than there was."""
    kinds = {"hosts": HostLine, "members": MemberLine, "documents": DocumentLine, "users": UserLine}
    counted = {kind: found[line] for kind, line in kinds.items()} | {"names": names}
    for kind, number in msgspec.structs.asdict(end).items():
        if counted[kind] != number:
            raise ValueError(f"{number} {kind} are announced, {counted[kind]} are there: lines are missing")


async def load(store: StateStore, file: ExportFile, progress: Progress, *, dry_run: bool = False) -> Imported:
    """Merge a whole export into a store. dry_run: only say what would change.

    Raises StoreProblem where the store is damaged at a place that matters, StoreError.
    """
    done = Imported(hosts=Tally(), members=Tally(), documents=Tally(), users=Tally(), names=Tally(), kept=[])
    hosts: dict[str, HostRow] = {}
    members: dict[str, MemberRow] = {}
    users: dict[int, Records] = {}
    names: dict[int, Names] = {}
    gathered = 0
    for line in file.lines(progress):
        match line:
            case HostLine():
                hosts[line.address] = file.host(line)
            case MemberLine():
                row = file.member(line)
                members[about(row)] = row
            case DocumentLine():
                await _merge_document(store, line, done, dry_run)
            case UserLine() | NameLine():
                gathered += 1
                key = key_of(line.key)
                if isinstance(line, UserLine):
                    _gather(users, file.user(line))
                if (name := name_in(line)) is not None and len(name) <= LONGEST_NAME:
                    bucket_names = names.setdefault(key >> BUCKET_SHIFT, {})
                    bucket_names[key] = max(name, bucket_names.get(key, b""))
        if gathered >= GATHERED or isinstance(line, End):
            # Hosts first, as in the file: a record is worth something where its host is known.
            await _merge_tables(store, hosts, members, done, dry_run)
            hosts, members = {}, {}
            done.users.add(await merge_users(store, users, dry_run=dry_run))
            done.names.add(await merge_names(store, names, dry_run=dry_run))
            users, names, gathered = {}, {}, 0
    done.clipped, done.first_clipped = file.clipped, file.first_clipped
    return done


def _gather(users: dict[int, Records], found: tuple[int, Records]) -> None:
    number, records = found
    bucket_users = users.setdefault(number, {})
    for key, user in records.items():
        bucket_users[key] = merged(bucket_users[key], user) if key in bucket_users else user


async def _merge_document(store: StateStore, line: DocumentLine, done: Imported, dry_run: bool) -> None:
    """Write a document where there is none; nothing is known about which of two is the later."""
    stored = await store.read_document(line.name)
    if stored is None and not dry_run:
        outcome = await store.swap_document(line.name, EMPTY_VERSION, line.data)
        if isinstance(outcome, Lost):
            stored = Document(outcome.version, outcome.blob)
    if stored is None:
        done.documents.new += 1
        return
    if stored.data == line.data:
        done.documents.unchanged += 1
    else:
        done.kept.append(line.name)


async def _merge_tables(
    store: StateStore,
    hosts: dict[str, HostRow],
    members: dict[str, MemberRow],
    done: Imported,
    dry_run: bool,
) -> None:
    def host_table(data: bytes) -> tuple[bytes, Tally]:
        rows, tally = _merged_rows({row.address: row for row in decode_rows(data)}, hosts, merge_rows)
        return encode_rows(rows), tally

    def member_table(data: bytes) -> tuple[bytes, Tally]:
        known = {about(row): row for row in decode_member_rows(data)}
        rows, tally = _merged_rows(known, members, merge_member_rows)
        return encode_member_rows(rows), tally

    if hosts:
        done.hosts.add(await _merge_table(store, HOSTS, host_table, dry_run))
    if members:
        done.members.add(await _merge_table(store, MEMBERS, member_table, dry_run))


async def _merge_table(
    store: StateStore, name: str, merge: Callable[[bytes], tuple[bytes, Tally]], dry_run: bool
) -> Tally:
    while True:
        stored = await store.read_document(name) or Document(EMPTY_VERSION, b"\x90")
        try:
            data, tally = merge(stored.data)
        except ValueError as exc:
            text = f"{store.url}: {exc}; `director state verify --fix` repairs it"
            raise StoreProblem(text, EX_DATA) from exc
        if dry_run or isinstance(await store.swap_document(name, stored.version, data), Swapped):
            return tally


def _merged_rows(
    stored: dict[str, Row], news: dict[str, Row], merge: Callable[[Row, Row], Row]
) -> tuple[list[Row], Tally]:
    tally = Tally()
    rows = dict(stored)
    for name, row in news.items():
        if name not in stored:
            rows[name] = row
            tally.new += 1
            continue
        rows[name] = merge(stored[name], row)
        if rows[name] == stored[name]:
            tally.unchanged += 1
        else:
            tally.changed += 1
    return list(rows.values()), tally
