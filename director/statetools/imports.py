"""`director state import`: an export into any store, by the merge rule of the ring.

The file is read twice: nothing is written before every line has been checked. Later decisions in the store
are kept, so an import can be interrupted at any point and repeated.
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
"""The longest line, in bytes. A document is one line."""
GATHERED = 20_000
"""Users and names that are merged at a time. An export has them in the order of buckets."""
EXPIRE, SKEW = 3 * 86400, 2.0
"""Seconds. `seen` may be rounded up by a third of EXPIRE; clocks may differ by SKEW."""
PROGRESS_EVERY = 10_000
"""Lines between two reports of progress."""

Row = TypeVar("Row", HostRow, MemberRow)


class Imported(msgspec.Struct):
    """The result of an import, or of a dry run."""

    hosts: Tally
    members: Tally
    documents: Tally
    users: Tally
    names: Tally
    kept: list[str]
    """Documents that the store has with another content: they stay as they are."""
    clipped: int = 0
    """Lines with times more than an hour ahead of this machine's clock. They were set to one hour ahead."""
    first_clipped: int = 0
    """The number of the first such line."""


class ExportFile:
    """A file that is a complete export."""

    def __init__(self, file: BinaryIO, name: str, now: float, progress: Progress) -> None:
        """Check the whole file.

        Args:
            file: can be read again from its start.
            name: of the file in messages.
            now: Unix seconds.

        Raises:
            ExportError: the file is not a complete export.
        """
        self._file, self._name = file, name
        self._bound = bound_at(int(now), EXPIRE, SKEW)
        self.clipped = 0
        """Lines with times more than an hour ahead, and the first of them."""
        self.first_clipped = 0
        self.counts = End()
        self._size = file.seek(0, io.SEEK_END)
        for line in self.lines(progress):
            if isinstance(line, End):
                self.counts = line

    def lines(self, progress: Progress) -> Iterator[Line]:
        """All lines in order. Each is checked."""
        self._file.seek(0)
        found: Counter[object] = Counter()
        names = number = self.clipped = 0
        last: Line | None = None
        while text := self._file.readline(LINE_LIMIT):
            number += 1
            if number % PROGRESS_EVERY == 0:
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
                self._name, number, "the last line, which has the counts, is missing; export it again"
            )

    def _checked(self, text: bytes, last: Line | None) -> Line:
        """The line that this text is.

        Raises:
            ValueError: it cannot be right after the line `last`.
        """
        line = decode(text)
        if not text.endswith(b"\n"):
            raise ValueError("it has no end: the file was truncated, or the line is too long")
        if isinstance(line, Header) != (last is None):
            raise ValueError("the first line must be the header, and no other line may be")
        if isinstance(last, End):
            raise ValueError("a line follows the line with the counts, which must be the last")
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
                    raise ValueError(f"{line.name} must be written one a line, not as a document")
            case UserLine():
                self.user(line)
            case NameLine():
                key_of(line.key)
                if name_in(line) is None:
                    raise ValueError("a line of a name without the name")
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
    """Compare the counts of the last line with the lines.

    Raises:
        ValueError: they differ.
    """
    kinds = {"hosts": HostLine, "members": MemberLine, "documents": DocumentLine, "users": UserLine}
    counted = {kind: found[line] for kind, line in kinds.items()} | {"names": names}
    for kind, number in msgspec.structs.asdict(end).items():
        if counted[kind] != number:
            raise ValueError(
                f"the last line counts {number} {kind}, the file has {counted[kind]}: lines are missing"
            )


async def load(store: StateStore, file: ExportFile, progress: Progress, *, dry_run: bool = False) -> Imported:
    """Merge a complete export into a store.

    Args:
        dry_run: count what would change, and change nothing.

    Raises:
        StoreProblem: the store is damaged where the import has to merge.
        StoreError: the store is unreachable, or refuses.
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
            # Hosts first, as in the file: directors drop records whose host is not known.
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
    """Write a document if the store has none. It is not known which of two documents is later."""
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
