"""Files and stored documents that are damaged, hostile or from another program: they are refused or
merged."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from director.core.checks import wrong_members, wrong_records, wrong_rows
from director.core.filechanges import decode_applied, encode_applied
from director.core.placement.names import entries_in
from director.core.placement.users import LATEST, RECORD, unpack
from director.core.protocol.messages import HostRow, MemberRow
from director.core.tables.hosts import BackendSetting, HostTable, decode_rows, encode_rows
from director.core.tables.members import MemberTable, decode_member_rows, encode_member_rows
from director.dovecot import doveconf
from director.dovecot.takeover import take_over
from director.errors import ConfigErrors, DoveconfError, ExportError, ListenError
from director.net.login import Connection
from director.service.configuration.configfile import load
from director.service.configuration.units import parse_duration
from director.service.lifecycle.handover import (
    HandedListener,
    Handover,
    HandoverError,
    Memory,
    ReplacementRecord,
    decode,
    encode,
)
from director.service.lifecycle.sysd import inherited_descriptors
from director.statetools import lines
from director.statetools.findings import TimeLimits
from director.statetools.imports import ExportFile
from director.statetools.tables import check_hosts, check_members
from director.types import Address, MemberId
from state.base import Document, StoreUrlError, version_of
from state.urls import open_store
from tests.fuzz.codecs import refused
from tests.fuzz.engine import Case, Target
from tests.fuzz.inputs import WORDS, changed, noise, word

NOW = 1_700_000_000
NUMBERS = [0, 1, -1, 100, 1000, 1001, NOW, NOW + 3600, NOW + 7200, LATEST, LATEST + 1, 1 << 63, (1 << 64) - 1]
TEXTS = [*(one.decode("utf-8", "replace") for one in WORDS), "10.1.0.1", "10.1.0.2", "2001:db8::1", "mail.x"]
FOLDER = Path(tempfile.gettempdir())


def number(rng: random.Random, *usual: int) -> int | float:
    if usual and rng.random() < 0.93:
        return rng.choice(usual)
    return rng.choice(NUMBERS) if rng.random() < 0.97 else rng.choice((0.5, float("nan"), float("inf")))


def stamp(rng: random.Random) -> int | float:
    return number(rng, 0, 1, NOW, NOW + 1, NOW + 4000, LATEST)


def text(rng: random.Random, *usual: str) -> str:
    return rng.choice(usual) if usual and rng.random() < 0.85 else rng.choice(TEXTS)


def packed(rng: random.Random, rows: Any) -> bytes:
    """Return a document, usually undamaged."""
    data = msgspec.msgpack.encode(rows)
    drawn = rng.random()
    if drawn < 0.1:
        return changed(rng, data)
    return data[: rng.randrange(len(data) + 1)] if drawn < 0.15 else data


# ---- hosts and members


def host_row(rng: random.Random) -> list[Any]:
    address = text(rng, "10.1.0.1", "10.1.0.2", "2001:db8::1")
    row: list[Any] = [address, text(rng, "", "mail.x"), rng.random() < 0.7, stamp(rng), text(rng, "", "blue")]
    row += [stamp(rng), number(rng, 0, 1, 100, 1000), stamp(rng), rng.random() < 0.7, stamp(rng)]
    if rng.random() < 0.3:
        row.append(text(rng, "", "mail.x"))
    if rng.random() < 0.05:
        row[rng.randrange(len(row))] = rng.choice((None, [], {}, b"x", "x", 7))
    return row if rng.random() < 0.97 else row[: rng.randrange(len(row))]


def make_hosts(rng: random.Random) -> Case:
    return [packed(rng, [host_row(rng) for _ in range(rng.randrange(3))]) for _ in range(rng.randrange(1, 4))]


def check_host_documents(case: Case) -> None:
    good: list[list[HostRow]] = []
    for data in case:
        rows = refused(lambda data=data: decode_rows(data), ValueError)
        if isinstance(rows, list):
            assert decode_rows(encode_rows(rows)) is not None if not wrong_rows(rows) else True
            if wrong_rows(rows) is None:
                good.append(rows)
        repaired = check_hosts(Document(version_of(data), data), TimeLimits.at(float(NOW), 900.0), b"")
        if repaired.data:
            assert wrong_rows(decode_rows(repaired.data)) is None
    tables = [_host_table(good), _host_table(good[::-1]), _host_table([*good, *good])]
    assert len({encode_rows(list(table.rows.values())) for table in tables}) == 1, (
        "the order of merges matters"
    )
    for table in tables:
        assert len(table.digest()) == 8
        assert len(table.backends()) >= len(table.present())


def _host_table(documents: list[list[HostRow]]) -> HostTable:
    table = HostTable([BackendSetting(Address("10.1.0.1"), "", "", 100)])
    for rows in documents:
        table.merge(rows)
    return table


def member_row(rng: random.Random) -> list[Any]:
    member = text(rng, "10.0.0.1:9090", "[2001:db8::1]:9090", "10.0.0.2:80")
    row: list[Any] = [member, rng.random() < 0.6, stamp(rng)]
    return [*row, text(rng, "", "d1:9090")] if rng.random() < 0.4 else row


def make_members(rng: random.Random) -> Case:
    return [
        packed(rng, [member_row(rng) for _ in range(rng.randrange(4))]) for _ in range(rng.randrange(1, 4))
    ]


def check_member_documents(case: Case) -> None:
    good: list[list[MemberRow]] = []
    for data in case:
        rows = refused(lambda data=data: decode_member_rows(data), ValueError)
        if isinstance(rows, list) and wrong_members(rows) is None:
            good.append(rows)
        repaired = check_members(Document(version_of(data), data), TimeLimits.at(float(NOW), 900.0), b"")
        if repaired.data:
            assert wrong_members(decode_member_rows(repaired.data)) is None
    tables = [_member_table(good), _member_table(good[::-1]), _member_table([*good, *good])]
    assert len({encode_member_rows(list(table.rows.values())) for table in tables}) == 1
    for table in tables:
        assert len(table.digest()) in (0, 8)
        assert not set(table.listed()) & set(table.removed())


def _member_table(documents: list[list[MemberRow]]) -> MemberTable:
    table = MemberTable([MemberId("10.0.0.1:9090")])
    for rows in documents:
        table.merge(rows)
    return table


def make_applied(rng: random.Random) -> Case:
    applied = {
        text(rng, "10.0.0.1:9090"): [
            [text(rng, "10.1.0.1"), text(rng, ""), number(rng), *[number(rng)] * rng.randrange(5)]
            for _ in range(rng.randrange(3))
        ]
        for _ in range(rng.randrange(3))
    }
    return [packed(rng, applied), noise(rng, 30)]


def check_applied(case: Case) -> None:
    for data in case:
        applied = refused(lambda data=data: decode_applied(data), ValueError)
        if isinstance(applied, dict):
            assert decode_applied(encode_applied(applied)) == applied


# ---- buckets of users and names


def make_buckets(rng: random.Random) -> Case:
    records = rng.randbytes(RECORD.size * rng.randrange(4))
    names = b"".join(rng.randbytes(8) + len(n).to_bytes(2) + n for n in (noise(rng), noise(rng, 3)))
    return [changed(rng, blob) if rng.random() < 0.3 else blob for blob in (records, names)]


def check_buckets(case: Case) -> None:
    for blob in case:
        users = refused(lambda blob=blob: list(unpack(blob)), ValueError)
        assert isinstance(users, list) is (wrong_records(blob) is None)
        names = refused(lambda blob=blob: list(entries_in(blob)), ValueError)
        if isinstance(names, list):
            assert sum(10 + len(name) for _, name in names) == len(blob)


# ---- the handover to a successor


def make_handover(rng: random.Random) -> Case:
    handover = Handover(
        version="1",
        replacement=ReplacementRecord(version="1", begun=1.0, paused_at=2.0),
        username_hash="%Lu",
        listening=[HandedListener(name="login", where="/x", descriptor=rng.randrange(9))],
        connections=[Connection(relay="login", client=3, first=noise(rng), held_lines=[noise(rng)])],
        name_bytes=[rng.randrange(9)],
        log_unwritten=noise(rng),
    )
    memory = Memory(rng.randbytes(22 * rng.randrange(3)), bytes(handover.name_bytes[0]))
    data = b"".join(encode(handover, memory))
    drawn = rng.random()
    if drawn < 0.5:
        return [changed(rng, data)]
    return [data[: rng.randrange(len(data))] if drawn < 0.8 else data]


def check_handover(case: Case) -> None:
    for data in case:
        handed_over = refused(lambda data=data: decode(data), HandoverError)
        if not isinstance(handed_over[0], type):
            assert len(handed_over.memory.users) == handed_over.handover.user_bytes


# ---- exports of a store

EXPORT = [
    lines.Header(
        format=1, exported="2026-01-01T00:00:00Z", store="memory:", server="", schema=1, director="1"
    ),
    lines.HostLine(
        address="10.1.0.1",
        hostname="",
        present=True,
        present_at=0,
        tag="",
        tag_at=0,
        weight=100,
        weight_at=0,
        up=True,
        up_at=0,
    ),
    lines.MemberLine(member="10.0.0.1:9090", present=True, at=NOW),
    lines.DocumentLine(name="applied", data=b"\x80"),
    lines.UserLine(key="0000000100000000", hash=1, host_id=1, decided=NOW, seen=NOW, name="alice"),
    lines.NameLine(key="0000000200000000", name_base64=b"\xff"),
    lines.End(hosts=1, members=1, documents=1, users=1, names=2),
]


def make_export(rng: random.Random) -> Case:
    found = [lines.encode(line) for line in EXPORT]
    for _ in range(rng.randrange(3)):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = changed(rng, found[at])
            case 1:
                found[at] = found[at].replace(rng.choice((b"0", b"1", b'"', b"true")), word(rng), 1)
            case 2:
                del found[at]
                if not found:
                    found = [b""]
            case 3:
                found.insert(at, rng.choice(found))
    return found


def check_export(case: Case) -> None:
    def read() -> list[Any]:
        file = ExportFile(io.BytesIO(b"".join(case)), "export", float(NOW), lambda *_: None)
        return [line for line in file.lines(lambda *_: None) if not isinstance(line, lines.UserLine)]

    refused(read, ExportError)


# ---- configuration

SECTIONS = {
    "": ["state", "snapshot"],
    "ring": [
        "servers",
        "listen",
        "secret_file",
        "tls",
        "ping_interval",
        "max_clock_skew",
        "lease_ttl",
    ],
    "backends": ["mail_servers", "weight"],
    "dovecot": ["base_dir", "auth_socket", "kick", "userdb_socket"],
    "users": ["expire", "username_hash", "master_user_separator", "kick_delay", "flush_socket", "max"],
    "listen": ["login", "userdb", "admin", "notify", "api"],
    "http": ["listen", "token_file", "token"],
    "lookups": ["http", "nginx", "timeout", "ports"],
    "log": ["format", "level", "user_names"],
}
SECRET_URL = '"redis://u:hunter2@h/0"'
VALUES = [
    *(
        '"10.1.0.1"',
        '"10.1.0.1-10.1.0.9"',
        '["10.1.0.1", "10.1.0.2@blue"]',
        '["10.1.0.1-10.1.0.0"]',
        "[]",
        "{}",
    ),
    *(
        '"2 s"',
        '"15 min"',
        '"-1 s"',
        '"1e9 h"',
        '"999999999999999999999 d"',
        "0",
        "1",
        "100",
        "-1",
        "1001",
        "1.5",
    ),
    *(
        "true",
        '""',
        '"auto"',
        '"%Lu"',
        '"%{x}"',
        '"native"',
        '"debug"',
        '"json"',
        '"json\\u0000"',
        '"memory:"',
    ),
    *(
        '"sqlite:///x.db"',
        SECRET_URL,
        '"redis://[::1"',
        '"${HOME}"',
        '"${NOTHING}"',
        '"/etc/passwd"',
    ),
    *('{path = "/run/x"}', '{tcp = "127.0.0.1:99999"}', '{path = "x", mode = "0999"}', "[[1]]", "nan", "inf"),
    *(
        '"exec:/bin/true %i"',
        '"tcp:%h:1"',
        '"10.0.0.1:9090"',
        '["10.0.0.1", "10.0.0.2"]',
        '["::1"]',
        "2026-01-01",
    ),
    *(
        '"' + "9" * 5000 + ' s"',
        "9" * 400,
        '"' + "x" * 300 + '"',
        '["' + "9" * 5000 + '"]',
        '["a:' + "9" * 5000 + '"]',
    ),
]


def make_config(rng: random.Random) -> Case:
    found = []
    for section in rng.sample(sorted(SECTIONS), rng.randrange(1, 5)):
        keys = rng.sample(SECTIONS[section], rng.randrange(1, len(SECTIONS[section]) + 1))
        rows = [f"{key} = {rng.choice(VALUES)}" for key in keys]
        found.append("\n".join([f"[{section}]", *rows] if section else rows))
    found.sort(key=lambda part: part.startswith("["))
    if rng.random() < 0.6:
        found.append('[backends]\nmail_servers = ["10.1.0.1"]' if "[backends]" not in "".join(found) else "")
    data = "\n".join(found).encode()
    return [changed(rng, data) if rng.random() < 0.2 else data]


def check_config(case: Case) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        file = Path(folder) / "director.toml"
        file.write_bytes(b"".join(case))

        def read() -> None:
            load(file, {"HOME": "/x"}, resolve=_resolve, local=lambda address: address == "10.0.0.1")

        try:
            read()
        except ConfigErrors as exc:
            assert str(exc).strip()  # noqa: PT017
            hidden = f"state = {SECRET_URL}\n".encode()
            assert case[0].count(b"hunter2") != 1 or hidden not in case[0] or "hunter2" not in str(exc)  # noqa: PT017


def _resolve(name: str) -> list[str]:
    if "x" in name:
        raise OSError(0, "no such name")
    return ["10.9.0.1"]


URLS = [
    *("memory:", "sqlite:///x.db", "sqlite:////a/b.db", "redis://h/0", "redis://:hunter2@h:1/0?prefix=x:"),
    *(
        "rediss://h?password_file=/x&username=u",
        "unix:///run/r.sock?db=1",
        "redis+sentinel://a,b:1,[::1]/s/0",
    ),
    *(
        "redis+cluster://a:1,b",
        "redis://h/" + "9" * 5000,
        "redis://h:" + "9" * 5000,
        "redis://[::1/0",
        "x://",
    ),
]


def make_urls(rng: random.Random) -> Case:
    url = rng.choice(URLS).encode()
    return [(changed(rng, url) if rng.random() < 0.8 else url).decode("utf-8", "surrogateescape")]


def check_urls(case: Case) -> None:
    for url in case:
        found = refused(lambda url=url: open_store(url, base_dir=FOLDER), StoreUrlError)
        shown = found[1] if isinstance(found, tuple) else found.url
        assert ":hunter2@" not in url or url.count("hunter2") > 1 or "hunter2" not in shown


def make_units(rng: random.Random) -> Case:
    usual = [
        "1 s",
        "1.5 min",
        "2h",
        "100 ms",
        "1 MB",
        "1 kB",
        " 1 s",
        "1  s",
        "-1 s",
        "1e3 s",
        "9" * 5000 + " s",
    ]
    return [text(rng, *usual) if rng.random() < 0.9 else number(rng) for _ in range(4)]


def check_units(case: Case) -> None:
    for value in case:
        duration = refused(lambda value=value: parse_duration(value), ValueError)
        assert isinstance(duration, tuple) or duration >= 0


def make_descriptors(rng: random.Random) -> Case:
    values = [
        "1",
        "0",
        "3",
        "",
        "-1",
        "9" * 5000,
        "9" * 30,
        "login",
        "login:userdb:notify",
        ":",
        "login::x",
        "٣",
    ]
    return [rng.choice(values) for _ in range(3)]


def check_descriptors(case: Case) -> None:
    pid, count, names = [*case, "", "", ""][:3]
    environ = {"LISTEN_PID": pid, "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
    refused(lambda: inherited_descriptors(environ, 1), ListenError)


# ---- Dovecot's configuration

DATA = Path(__file__).parents[1] / "data/doveconf"


def make_doveconf(rng: random.Random) -> Case:
    files = sorted(DATA.glob("*.txt"))
    lines = rng.choice(files).read_text().splitlines(keepends=True)
    for _ in range(rng.randrange(8)):
        at = rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                lines[at] = changed(rng, lines[at].encode()).decode("utf-8", "replace")
            case 1:
                del lines[at]
                lines = lines or [""]
            case 2:
                lines.insert(
                    at, rng.choice(("}\n", "service x {\n", "  fifo_listener login/x {\n", "a=b\n", "{\n"))
                )
            case 3:
                name, equals, _ = lines[at].partition("=")
                if equals:
                    lines[at] = f"{name}= {text(rng, '9' * 5000, '0', '', '10.0.0.1:9', '<file')}\n"
    return lines


def check_doveconf(case: Case) -> None:
    def read() -> None:
        found = doveconf.read("".join(case), "doveconf")
        for release in ("2.3", "2.4"):
            take_over(found, "doveconf", dovecot=release)

    refused(read, DoveconfError)


def _targets(*checks: tuple[str, Callable[[random.Random], Case], Callable[[Case], None]]) -> list[Target]:
    return [Target(*check) for check in checks]


TARGETS = _targets(
    ("hosts", make_hosts, check_host_documents),
    ("members", make_members, check_member_documents),
    ("applied", make_applied, check_applied),
    ("buckets", make_buckets, check_buckets),
    ("handover", make_handover, check_handover),
    ("export", make_export, check_export),
    ("config", make_config, check_config),
    ("urls", make_urls, check_urls),
    ("units", make_units, check_units),
    ("descriptors", make_descriptors, check_descriptors),
    ("doveconf", make_doveconf, check_doveconf),
)
