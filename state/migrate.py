"""Brings the layout of a store up to date: numbered steps from `migrations/`, forwards only.

A step is recorded in the store when it is done. Here are the steps of all stores and how SQLite runs its own,
each in one transaction; how Redis does is in `migrate_redis`, which needs more libraries.
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
    """SQL that takes a file from schema `number - 1` to `number`."""

    number: int
    sql: str
    title: str = ""


class RedisStep(msgspec.Struct, frozen=True):
    """A function that does the same for the keys under a prefix; running it again changes nothing."""

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
    """All steps this program knows, in order."""
    folder = resources.files("migrations") / "sqlite"
    found = sorted((f.name, f) for f in folder.iterdir() if _NAME.fullmatch(f.name))
    texts = [(name.removesuffix(".sql"), file.read_text("utf-8")) for name, file in found]
    return _checked([SqlStep(int(n[:4]), sql, _title(n, sql.removeprefix("--"))) for n, sql in texts])


def redis_steps() -> list[RedisStep]:
    """All steps this program knows, in order."""
    folder = resources.files("migrations") / "redis"
    names = sorted(f.name.removesuffix(".py") for f in folder.iterdir() if _NAME.fullmatch(f.name))
    modules = [(name, importlib.import_module(f"migrations.redis.{name}")) for name in names]
    return _checked([RedisStep(int(n[:4]), m.migrate, _title(n, m.__doc__ or "")) for n, m in modules])


def layout(
    found: int, steps: Sequence[_Numbered], size: int | None = None, held_by: tuple[str, ...] = ()
) -> Layout:
    """Return what a store lacks.

    Args:
        found: its schema.
        steps: all steps there are, in order.
        size: bytes of its file; None where the store cannot say.
        held_by: as in `Layout`.
    """
    missing = tuple(Step(number=step.number, title=step.title) for step in steps[found:])
    return Layout(found=found, known=len(steps), steps=missing, size=size, held_by=held_by)


def _title(name: str, text: str) -> str:
    """Of `0002_doubled_buckets`: `doubled buckets: `, and the first line of what it says about itself."""
    return f"{name[5:].replace('_', ' ')}: {text.strip().partition(chr(10))[0]}"


def _checked(steps: list[_StepT]) -> list[_StepT]:
    numbers = [step.number for step in steps]
    assert numbers == list(range(1, len(steps) + 1)), f"migrations are not numbered 1, 2, 3 …: {numbers}"
    return steps


def sqlite_schema(connection: sqlite3.Connection) -> int | None:
    """The schema of an open file: None if it is something else; 0 for an empty one; less if it is damaged."""
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
    """Run the steps after a schema. Interrupted, the file is as after the last complete step.

    Args:
        connection: in autocommit mode.
        store: what the store is called in errors.
        found: the schema of the file.
        steps: all steps there are, in order.
        begun: is told of each step.

    Raises:
        SchemaTooNew: a newer program wrote the file. sqlite3.Error: SQLite refuses.
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
    """The schema as a number, from the field of the `meta` hash; 0 where there is none."""
    return int(stored) if stored and stored.isdigit() and len(stored) <= 9 else 0
