"""Reads a SQLite store that a director has open: a view of one moment, without writing anything.

SQLite lets other processes read while one writes. `FILE.lock`, which a director holds while it uses the file,
is not taken. The view is that of a transaction, which lasts until the store is closed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from state.base import AuditEntry, Health, Layout, Lost, SchemaTooNew, StoreRefused, Swap, Swapped
from state.migrate import layout
from state.sqlite import SqliteStore
from state.sqlite_file import DatabaseFile, as_text, is_damage


class BesideFile(DatabaseFile):
    """The file of another process, open for reading."""

    def open(self) -> None:
        """Open the file for reading.

        Raises:
            StoreRefused: the file is damaged, or is no state file.
            SchemaTooNew: a newer program wrote the file.
            sqlite3.Error: SQLite refuses.
        """
        found = self._begin("open")
        if found > len(self._steps):
            raise SchemaTooNew(self._store, found, len(self._steps))

    def layout(self) -> Layout:
        """Return the layout. Raises as `open` does, except SchemaTooNew: the layout itself says that."""
        try:
            return layout(self._begin("layout"), self._steps, self.path.stat().st_size)
        finally:
            self.close()

    def begin_anew(self) -> Path:
        self._refuse("read", "while it was read")

    def was_replaced(self) -> bool:
        return False

    def what_happened(self) -> str:
        return ""

    def what_shrunk(self) -> str:
        return ""

    def _begin(self, operation: str) -> int:
        self._check_kind(operation)
        db = sqlite3.connect(
            self._uri("ro"), uri=True, timeout=self._timeout, isolation_level=None, check_same_thread=False
        )
        db.text_factory = as_text
        self._connection = db
        try:
            db.execute("BEGIN")
            return self._healthy_schema(db)
        except sqlite3.DatabaseError as exc:
            self.close()
            if not is_damage(exc):
                raise
            self._refuse(operation, str(exc))

    def _refuse(self, operation: str, problem: str) -> NoReturn:
        advice = f"{self.path} is damaged ({problem}): a director that writes to it sets it aside"
        raise StoreRefused(self._store, operation, "damaged", advice)


class SqliteReader(SqliteStore):
    """A store that reads and refuses all writes."""

    def __init__(self, file: Path, url: str, timeout: float) -> None:
        super().__init__(file, url, timeout)
        self._new_file = partial(BesideFile, file, url, timeout, self._steps)
        self._file = self._new_file()

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        self._refuse("swap_buckets")

    async def swap_document(self, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        self._refuse("swap_document")

    async def append_audit(self, entries: Sequence[AuditEntry]) -> None:
        self._refuse("append_audit")

    async def health(self) -> Health:
        start = time.monotonic()
        await self._run("health", lambda db: db.execute("SELECT schema FROM meta").fetchone())
        return Health(server=f"SQLite {sqlite3.sqlite_version}", took=time.monotonic() - start)

    def _refuse(self, operation: str) -> NoReturn:
        raise StoreRefused(
            self.url, operation, "in use by a director", "stop the director, then run the command again"
        )
