"""`director state …`: inspect, export, import and repair a store.

These commands do not talk to a director: they open the store themselves.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, BinaryIO

import click
import msgspec

from director.cli.groups import CommandGroup
from director.cli.output import OutputError, moment, or_dash, print_error, print_json, print_line, size
from director.cli.progress import counted
from director.cli.sections import STORE
from director.cli.stores import Chosen, Meter, entry, run_work, store_options
from director.cli.target import Target, json_option
from director.errors import EX_DATA, DirectorError

if TYPE_CHECKING:
    from director.statetools.buckets import Tally
    from director.statetools.findings import Finding
    from director.statetools.imports import Imported
    from director.statetools.info import Info


class FileError(DirectorError):
    """A file that the command line names cannot be read (exit code 65) or written (exit code 1)."""

    def __init__(self, file: str, error: OSError, exit_code: int = 1) -> None:
        self.exit_code = exit_code
        super().__init__(f"{file}: {error.strerror}")


@STORE.group(cls=CommandGroup)
def state() -> None:
    """Inspect, back up, restore and repair the store.

    `import` and `verify --fix` write: with SQLite, stop the director first; with Redis, directors may run.
    All other commands only read and can run beside a director.
    """


@state.command("info")
@json_option
@store_options
@click.pass_obj
def show_info(target: Target, store: str | None, as_json: bool) -> None:
    """Show the kind, size and contents of the store."""
    from director.statetools.info import info

    chosen, meter = Chosen(target, store), Meter("state info")
    found = run_work(lambda: info(chosen.place, meter), meter)
    if as_json:
        print_json(msgspec.json.encode(found))
        return
    for title, value in _info_lines(found):
        print_line(f"{title:<10}{value}")


def _info_lines(found: Info) -> Iterator[tuple[str, str]]:
    yield "store", found.url
    yield "shared", "yes, by all directors" if found.shared else "no, one director uses it"
    if found.contents is None:
        if found.schema:
            yield (
                "schema",
                f"{found.schema}; this program needs {found.schema_known}: run `director migrate`",
            )
        else:
            yield "schema", "none: no director has used this store yet"
        return
    holders = ", ".join(found.held_by)
    note = f"; this program knows {found.schema_known}, these directors do not: {holders}" if holders else ""
    yield "schema", f"{found.schema}{note}"
    inside = found.contents
    yield "server", inside.server
    yield "run id", inside.run_id
    yield "users", f"{inside.users} in {counted(inside.user_buckets, 'bucket')}"
    yield "names", f"{inside.names} in {counted(inside.name_buckets, 'bucket')}"
    yield "bytes", size(inside.bytes)
    names = ", ".join(f"{document.name} ({size(document.bytes)})" for document in inside.documents)
    yield "documents", or_dash(names)
    if found.shared:
        yield (
            "leases",
            "not readable, run `director state verify`"
            if inside.leases is None
            else or_dash(", ".join(f"{lease.member} ({lease.remaining:.0f} s)" for lease in inside.leases)),
        )
    if inside.audit_entries is None:
        yield "audit", "not readable, run `director state verify`"
    else:
        newest = f", the newest from {moment(int(inside.audit_newest))}" if inside.audit_newest else ""
        yield "audit", f"{inside.audit_entries} entries{newest}"


@state.command("verify")
@click.option("--fix", is_flag=True, help="Repair; with SQLite, stop the director first.")
@click.option("--reason", metavar="TEXT", default="", help="Write this reason to the audit.")
@json_option
@store_options
@click.pass_obj
def verify(target: Target, store: str | None, fix: bool, reason: str, as_json: bool) -> int:
    """Check the store and print every problem.

    Exit code 65: a problem is left.
    """
    from director.statetools.places import opened
    from director.statetools.verification import Verification

    chosen, meter = Chosen(target, store), Meter("state verify")
    findings: list[Finding] = []

    async def walk() -> str:
        async with opened(chosen.place, reading=not fix) as (opened_store, _):
            verification = Verification(opened_store, chosen.limits(), fix=fix)
            async for finding in verification.findings(meter):
                if as_json:
                    findings.append(finding)
                else:
                    meter.clear()
                    _print_finding(finding)
                    findings.append(msgspec.structs.replace(finding, meaning="", remedy="", outcome=""))
            fixed = [finding for finding in findings if finding.fixed]
            if fixed:
                detail = f"repaired {len(fixed)} of {counted(len(findings), 'finding')}"
                await opened_store.append_audit([entry("state verify --fix", detail, reason)])
            return (
                f"{counted(verification.users, 'user')} and {counted(verification.names, 'name')}"
                f" in {counted(verification.buckets, 'bucket')}"
            )

    looked_at = run_work(walk, meter)
    unfixed = sum(not finding.fixed for finding in findings)
    if as_json:
        print_json(msgspec.json.encode({"looked_at": looked_at, "findings": findings, "left": unfixed}))
    elif not findings:
        print_line(f"{looked_at}: good")
    else:
        print_line(f"{looked_at}: {counted(len(findings), 'finding')}, {len(findings) - unfixed} repaired")
        if unfixed and not fix:
            print_line("`director state verify --fix` repairs what can be repaired")
    return EX_DATA if unfixed else 0


def _print_finding(finding: Finding) -> None:
    print_line(f"{finding.where}: {finding.problem}")
    print_line(f"    means:    {finding.meaning}")
    print_line(f"    repair:   {finding.remedy}")
    if finding.outcome:
        print_line(f"    {'repaired:' if finding.fixed else 'left:':<9} {finding.outcome}")


@state.command("export")
@click.argument("file")
@store_options
@click.pass_obj
def export_state(target: Target, store: str | None, file: str) -> None:
    """Write everything in the store to FILE as JSON Lines; - is stdout.

    FILE is replaced when the export is complete; until then an older FILE stays.
    """
    from director.statetools.exports import export
    from director.statetools.places import opened

    chosen, meter = Chosen(target, store), Meter("state export")

    async def copy(output: IO[bytes]) -> None:
        import time

        async with opened(chosen.place, reading=True) as (opened_store, schema):
            lines = export(opened_store, schema, chosen.user_hash(), time.time(), meter)
            async for part in lines:
                _put(output, file, part)

    with _written(file) as output:
        run_work(lambda: copy(output), meter)


def _put(output: IO[bytes], file: str, part: bytes) -> None:
    try:
        output.write(part)
    except OSError as exc:
        raise OutputError(exc) if file == "-" else FileError(file, exc) from None


@contextmanager
def _written(file: str) -> Iterator[IO[bytes]]:
    """The output of an export: stdout, or a file that gets its name when it is complete and on the disk.

    Raises:
        FileError: the file cannot be written.
    """
    if file == "-":
        yield sys.stdout.buffer
        return
    folder, name = os.path.split(os.path.abspath(file))
    try:
        # The names of users are private: only the owner of the file may read it. tempfile sets mode 0600.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False) as output:
            try:
                yield output
                output.flush()
                os.fsync(output.fileno())
                os.replace(output.name, os.path.join(folder, name))
            except BaseException:
                os.unlink(output.name)
                raise
    except OSError as exc:
        raise FileError(file, exc) from None


@state.command("import")
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Check the file and print what would change; change nothing.")
@click.option("--reason", metavar="TEXT", default="", help="Write this reason to the audit.")
@json_option
@store_options
@click.pass_obj
def import_state(
    target: Target, store: str | None, file: str, dry_run: bool, reason: str, as_json: bool
) -> None:
    """Merge an export into the store; - is stdin.

    Later decisions in the store are kept. If the import is interrupted, run it again.
    """
    from director.statetools.imports import ExportFile, load
    from director.statetools.places import opened_for_import

    chosen, meter = Chosen(target, store), Meter("state import")

    async def merge(source: BinaryIO) -> Imported:
        import time

        meter.show_text("checking the file")
        whole = ExportFile(source, file, time.time(), Meter("state import: checking"))
        async with opened_for_import(chosen.place, dry_run=dry_run) as opened_store:
            done = await load(opened_store, whole, meter, dry_run=dry_run)
            if not dry_run:
                detail = f"{done.users.new} new and {done.users.changed} changed users"
                await opened_store.append_audit([entry("state import", detail, reason)])
            return done

    with _read(file) as source:
        done = run_work(lambda: merge(source), meter)
    if as_json:
        print_json(msgspec.json.encode({"dry_run": dry_run, "imported": done}))
        return
    for kind in ("hosts", "members", "documents", "users", "names"):
        tally: Tally = getattr(done, kind)
        print_line(f"{kind:<11}{_tally_text(tally, dry_run)}")
    if done.clipped:
        print_error(
            f"{done.clipped} lines have times more than one hour ahead of this clock, the first is line "
            f"{done.first_clipped}; these times were set to one hour ahead"
        )
    for name in done.kept:
        print_error(f"document {name}: the store has another version, which is kept")
    if dry_run:
        print_line("dry run: nothing is changed")


def _tally_text(tally: Tally, dry_run: bool) -> str:
    if dry_run:
        return f"{tally.new} would be new, {tally.changed} would change, {tally.unchanged} would stay"
    return f"{tally.new} new, {tally.changed} changed, {tally.unchanged} as they were"


@contextmanager
def _read(file: str) -> Iterator[BinaryIO]:
    """The file to import. It is read twice, so the content of a pipe is copied to a temporary file first.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        with open(sys.stdin.fileno() if file == "-" else file, "rb", closefd=file != "-") as source:
            if source.seekable():
                yield source
                return
            with tempfile.TemporaryFile() as spooled:
                shutil.copyfileobj(source, spooled)
                yield spooled
    except OSError as exc:
        raise FileError(file, exc, EX_DATA) from None
