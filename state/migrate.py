"""Migrates the layout of a store with the numbered steps from `migrations/`, forwards only.

Each step is recorded in the store when it is done. This module has the steps of all stores, and runs those of
SQLite, each in one transaction. `migrate_redis` runs those of Redis; it is a module of its own because it
needs more libraries.
"""

from __future__ import annotations

import importlib
import re
import sqlite3
from collections.abc import Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from state.base import Layout, SchemaTooNew, Step

if TYPE_CHECKING:
    import redis

_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.(sql|py)")


class SqlStep(msgspec.Struct, frozen=True):
    """SQL that migrates a file from schema `number - 1` to `number`."""

    number: int
    sql: str
    title: str = ""


class RedisStep(msgspec.Struct, frozen=True):
    """A function that migrates the keys under a prefix. Running it again changes nothing."""

    number: int
    run: Callable[[redis.Redis, str], None]
    title: str = ""


class _Numbered(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def title(self) -> str: ...


_StepT = TypeVar("_StepT", bound=_Numbered)


def sqlite_steps() -> list[SqlStep]:
    """Return all SQLite steps that this program knows, in order."""
    folder = resources.files("migrations") / "sqlite"
    found = sorted((f.name, f) for f in folder.iterdir() if _NAME.fullmatch(f.name))
    texts = [(name.removesuffix(".sql"), file.read_text("utf-8")) for name, file in found]
    return _checked([SqlStep(int(n[:4]), sql, _title(n, sql.removeprefix("--"))) for n, sql in texts])


def redis_steps() -> list[RedisStep]:
    """Return all Redis steps that this program knows, in order."""
    folder = resources.files("migrations") / "redis"
    names = sorted(f.name.removesuffix(".py") for f in folder.iterdir() if _NAME.fullmatch(f.name))
    modules = [(name, importlib.import_module(f"migrations.redis.{name}")) for name in names]
    return _checked([RedisStep(int(n[:4]), m.migrate, _title(n, m.__doc__ or "")) for n, m in modules])


def layout(
    found: int, steps: Sequence[_Numbered], size: int | None = None, held_by: tuple[str, ...] = ()
) -> Layout:
    """Return the layout of a store and the steps that it lacks.

    Args:
        found: the schema of the store.
        steps: all steps that this program knows, in order.
        size: the size of the file in bytes; None: the store has no file.
        held_by: as in `Layout`.
    """
    missing = tuple(Step(number=step.number, title=step.title) for step in steps[found:])
    return Layout(found=found, known=len(steps), steps=missing, size=size, held_by=held_by)


def _title(name: str, text: str) -> str:
    """Return a title: for `0002_doubled_buckets`, `doubled buckets: ` and the first line of `text`."""
    return f"{name[5:].replace('_', ' ')}: {text.strip().partition(chr(10))[0]}"


def _checked(steps: list[_StepT]) -> list[_StepT]:
    numbers = [step.number for step in steps]
    assert numbers == list(range(1, len(steps) + 1)), f"migrations are not numbered 1, 2, 3 …: {numbers}"
    return steps


def sqlite_schema(connection: sqlite3.Connection) -> int | None:
    """Return the schema of an open file.

    Returns:
        The schema; 0: the file is empty; below 0: the file is damaged; None: the file is not a store.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    columns = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('meta')")}
    if "bucket" in tables and "schema" in columns:
        row = connection.execute("SELECT schema FROM meta").fetchone()
        return None if row is None else row[0] if isinstance(row[0], int) else -1
    return None if tables else 0


def migrate_sqlite(
    connection: sqlite3.Connection,
    store: str,
    found: int,
    steps: Sequence[SqlStep],
    begun: Callable[[Step], None],
) -> None:
    """Run the steps after a schema. If interrupted, the file is as after the last complete step.

    Args:
        connection: in autocommit mode.
        store: the name of the store in errors.
        found: the schema of the file.
        steps: all steps that this program knows, in order.
        begun: called with each step before it runs.

    Raises:
        SchemaTooNew: a newer program wrote the file.
        sqlite3.Error: SQLite refuses.
    """
    if found > len(steps):
        raise SchemaTooNew(store, found, len(steps))
    for step in steps[found:]:
        begun(Step(number=step.number, title=step.title))
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {step.sql}; UPDATE meta SET schema = {step.number}; COMMIT;"
            )
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise


def redis_schema(stored: bytes | None) -> int:
    """Return the schema from the field of the `meta` hash as a number; 0 if there is none."""
    return int(stored) if stored and stored.isdigit() and len(stored) <= 9 else 0
