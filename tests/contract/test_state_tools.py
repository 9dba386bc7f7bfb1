"""`director state …` and `director migrate`, as operators run them, on real stores: also when they are
interrupted, or another program writes at the same time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from director.core.placement.addresses import host_id
from director.core.placement.hashing import UserHash
from director.core.placement.names import entry
from director.core.placement.users import BUCKET_SHIFT, BY_HAND, LATEST, PINNED, User, pack, rounded, unpack
from director.core.protocol.messages import HostRow, MemberRow
from director.core.tables.hosts import decode_rows, encode_rows
from director.core.tables.members import encode_member_rows
from director.errors import ExportError, StoreProblem
from director.statetools.findings import Finding, TimeLimits
from director.statetools.imports import ExportFile, load
from director.statetools.places import problems
from director.statetools.verification import Verification
from director.types import Address, Stamp, UserKey
from state.base import (
    EMPTY_VERSION,
    SCHEMA,
    SPACES,
    Lost,
    Space,
    StateStore,
    StoreRefused,
    StoreUnavailable,
    Swap,
    Swapped,
    version_of,
)
from state.memory import MemoryStore
from state.urls import open_store
from tests.contract.conftest import Stores
from tests.servers import RedisServer, free_port

pytestmark = pytest.mark.anyio

PROGRAM = [sys.executable, "-m", "director"]
NOW = int(time.time())
HOSTS = [
    HostRow(f"10.1.0.{n}", "", n != 3, 0, "gold" if n == 2 else "", 0, 100, 0, True, 0) for n in (1, 2, 3)
]
MEMBERS = [MemberRow("10.0.0.9:9090", False, NOW - 50)]
HASH = UserHash()
DATA = 65
SAMPLE = Path(__file__).parent / "data/export.jsonl"


def key(name: str, tag: str = "") -> UserKey:
    return HASH.key(name.encode(), tag.encode())


def user(name: str, *, host: int = 1, decided: int = NOW - 60, flags: int = 0, tag: str = "") -> User:
    place = host_id(Address(f"10.1.0.{host}"))
    return User(key(name, tag), place, Stamp(decided), rounded(NOW, 900), flags)


ALICE, BOB = user("alice"), user("bob", flags=PINNED | BY_HAND)
GOLDIE = user("goldie", host=2, tag="gold")
NUMBER = ALICE.key >> BUCKET_SHIFT


async def put(store: StateStore, space: Space, number: int, blob: bytes) -> None:
    (bucket,) = await store.read_buckets(space, [number])
    assert await store.swap_buckets([Swap(space, number, bucket.version, blob)]) == [
        Swapped(version_of(blob))
    ]


async def put_users(store: StateStore, *users: User) -> None:
    for one in users:
        await put(store, "users", one.key >> BUCKET_SHIFT, pack([one]))


async def fill(store: StateStore) -> None:
    """Three hosts, three users with names, a name without a user, a document of its own."""
    await store.swap_document("hosts", EMPTY_VERSION, encode_rows(HOSTS))
    await store.swap_document("members", EMPTY_VERSION, encode_member_rows(MEMBERS))
    await store.swap_document("plan", EMPTY_VERSION, b"\0plan")
    await put_users(store, ALICE, BOB, GOLDIE)
    for name, known in (("alice", ALICE.key), ("goldie", GOLDIE.key), ("carol", key("carol"))):
        await put(store, "names", known >> BUCKET_SHIFT, entry(known, name.encode()))


async def everything(store: StateStore) -> dict[str, object]:
    documents = {name: await store.read_document(name) for name in await store.documents()}
    return {space: await store.versions(space) for space in SPACES} | documents


async def stored(store: StateStore, number: int) -> list[User]:
    (bucket,) = await store.read_buckets("users", [number])
    return list(unpack(bucket.blob))


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that commands can open: both kinds, empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


@pytest.fixture
async def filled(url: str, stores: Stores) -> str:
    store = await stores.open(url)
    await fill(store)
    await store.close()
    return url


def director(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DIRECTOR_")}
    ran = subprocess.run([*PROGRAM, *arguments], input=stdin, capture_output=True, env=environ, timeout=15)
    return subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def done(*arguments: str, stdin: bytes = b"") -> str:
    """Return the output of a command that must succeed without output on stderr."""
    ran = director(*arguments, stdin=stdin)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def shown_on_a_terminal(*arguments: str) -> str:
    """Return the output of a command on stderr, if stderr is a terminal."""
    controller, terminal = pty.openpty()
    subprocess.run([*PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(controller, 65536).decode()
    os.close(controller)
    return shown


# ---- export and import


async def test_a_store_exported_and_imported_into_another_kind_has_the_same_data(
    filled: str, stores: Stores, tmp_path: Path, redis_server: RedisServer
) -> None:
    file = str(tmp_path / "backup.jsonl")
    other = (
        f"{redis_server.url}?prefix=other:" if filled.startswith("sqlite") else f"sqlite:///{tmp_path}/o.db"
    )
    assert done("state", "export", file, "--store", filled) == ""
    done("state", "import", file, "--store", other)
    one, two = await stores.open(filled), await stores.open(other)
    assert await everything(one) == await everything(two)
    assert len(await everything(two)) == 5


async def test_an_export_lists_users_with_name_host_times_and_flags(filled: str) -> None:
    lines = [json.loads(line) for line in done("state", "export", "-", "--store", filled).splitlines()]
    users = {line["key"]: line for line in lines if line["type"] == "user"}
    assert users[f"{GOLDIE.key:016x}"] == {
        "type": "user",
        "key": f"{GOLDIE.key:016x}",
        "hash": GOLDIE.key >> 32,
        "host": "10.1.0.2",
        "host_id": GOLDIE.host,
        "tag": "gold",
        "decided": GOLDIE.decided,
        "seen": GOLDIE.seen,
        "name": "goldie",
    }
    assert users[f"{BOB.key:016x}"]["flags"] == ["by_hand", "pinned"]
    assert "tag" not in users[f"{BOB.key:016x}"]
    assert {"type": "name", "key": f"{key('carol'):016x}", "name": "carol"} in lines
    assert [line["type"] for line in (lines[0], lines[-1])] == ["header", "end"]
    assert lines[-1] == {"type": "end", "hosts": 3, "members": 1, "documents": 1, "users": 3, "names": 3}


async def test_an_import_never_replaces_a_later_decision(filled: str, stores: Stores) -> None:
    exported = done("state", "export", "-", "--store", filled).encode()
    store = await stores.open(filled)
    later = user("alice", host=3, decided=NOW, flags=BY_HAND)
    row = HostRow("10.1.0.1", "", True, 0, "", 0, 7, NOW, False, NOW)
    await put_users(store, later)
    held = await store.read_document("hosts")
    assert held is not None
    await store.swap_document("hosts", held.version, encode_rows([row, *HOSTS[1:]]))
    before = await everything(store)
    await store.close()
    done("state", "import", "-", "--store", filled, stdin=exported)
    again = await stores.open(filled)
    assert await everything(again) == before


async def test_names_of_over_255_bytes_are_neither_exported_nor_imported(url: str, stores: Stores) -> None:
    store = await stores.open(url)
    await put_users(store, ALICE)
    await put(store, "names", NUMBER, entry(ALICE.key, b"x" * 256))
    await store.close()
    lines = [json.loads(line) for line in done("state", "export", "-", "--store", url).splitlines()]
    (record,) = (line for line in lines if line["type"] == "user")
    assert "name" not in record
    assert (lines[-1]["users"], lines[-1]["names"]) == (1, 0)
    record["name"], lines[-1]["names"] = "y" * 256, 1
    done(
        "state",
        "import",
        "-",
        "--store",
        url,
        stdin="".join(f"{json.dumps(line)}\n" for line in lines).encode(),
    )
    again = await stores.open(url)
    assert await stored(again, NUMBER) == [ALICE]
    (bucket,) = await again.read_buckets("names", [NUMBER])
    assert b"y" not in bucket.blob


async def test_importing_a_second_time_changes_nothing(filled: str, stores: Stores) -> None:
    exported = done("state", "export", "-", "--store", filled).encode()
    imported = json.loads(done("state", "import", "-", "--json", "--store", filled, stdin=exported))[
        "imported"
    ]
    assert imported["users"] == {"new": 0, "changed": 0, "unchanged": 3}
    assert imported["names"] == {"new": 0, "changed": 0, "unchanged": 3}
    assert imported["hosts"] == {"new": 0, "changed": 0, "unchanged": 3}


async def test_an_import_keeps_a_document_that_differs_in_the_store_and_reports_it(
    filled: str, stores: Stores
) -> None:
    exported = done("state", "export", "-", "--store", filled).encode()
    store = await stores.open(filled)
    await store.swap_document("plan", version_of(b"\0plan"), b"newer")
    await store.close()
    ran = director("state", "import", "-", "--store", filled, stdin=exported)
    assert (ran.returncode, ran.stderr) == (
        0,
        "director: document plan: the store has another version, which is kept\n",
    )
    again = await stores.open(filled)
    document = await again.read_document("plan")
    assert document is not None
    assert document.data == b"newer"


async def test_an_import_is_recorded_in_the_audit_with_its_reason(filled: str, stores: Stores) -> None:
    exported = done("state", "export", "-", "--store", filled).encode()
    done("state", "import", "-", "--reason", "moved to new disks", "--store", filled, stdin=exported)
    store = await stores.open(filled)
    (entry,) = await store.audit(10)
    assert (entry.what, entry.reason) == ("state import", "moved to new disks")


async def test_a_dry_run_of_an_import_counts_and_leaves_no_store_behind(tmp_path: Path, filled: str) -> None:
    exported = done("state", "export", "-", "--store", filled).encode()
    folder = tmp_path / "new"
    folder.mkdir()
    said = done("state", "import", "-", "--dry-run", "--store", f"sqlite:///{folder}/new.db", stdin=exported)
    assert "users      3 would be new, 0 would change, 0 would stay\n" in said
    assert said.endswith("dry run: nothing is changed\n")
    assert files(folder) == []


def replaced(lines: Sequence[bytes], number: int, line: bytes) -> list[bytes]:
    return [*lines[: number - 1], line, *lines[number:]]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: lines[:-1], "line 10: the last line, which has the counts, is missing"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], "line 11: not a line of an export"),
        (lambda lines: [*lines[:5], *lines[6:]], "line 10: the last line counts 1 documents, the file has 0"),
        (lambda lines: lines[1:], "line 1: the first line must be the header"),
        (lambda lines: [*lines, lines[3]], "line 12: a line follows the line with the counts"),
        (lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]], "line 1: format 2"),
        (lambda lines: replaced(lines, 9, b'{"type":"user"}\n'), "line 9: not a line of an export"),
        (lambda lines: [b"\n", *lines], "line 1: not a line of an export"),
        (lambda lines: [], "the last line, which has the counts, is missing"),
    ],
)
async def test_a_damaged_file_is_refused_with_line_and_reason(damage: Any, said: str) -> None:
    whole = SAMPLE.read_bytes().splitlines(keepends=True)
    assert len(whole) == 11
    with pytest.raises(ExportError) as caught:
        ExportFile(io.BytesIO(b"".join(damage(whole))), "backup.jsonl", NOW, ignored)
    assert str(caught.value).startswith(f"backup.jsonl: {said}")


async def test_times_far_ahead_are_clipped_at_an_import_and_counted(tmp_path: Path, stores: Stores) -> None:
    lines = [json.loads(line) for line in SAMPLE.read_bytes().splitlines()]
    (host, *_) = [line for line in lines if line["type"] == "host"]
    (user, *_) = [line for line in lines if line["type"] == "user"]
    host["weight_at"] = host["up_at"] = 1 << 32
    user["decided"] = user["seen"] = LATEST
    exported = "".join(json.dumps(line) + "\n" for line in lines).encode()
    url = f"sqlite:///{tmp_path}/new.db"
    ran = director("state", "import", "-", "--store", url, stdin=exported)
    assert ran.returncode == 0
    assert "users      3 new, 0 changed, 0 as they were\n" in ran.stdout
    number = lines.index(host) + 1
    assert (
        "2 lines have times more than one hour ahead of this clock, the first is line "
        f"{number}; these times were set to one hour ahead" in ran.stderr
    )
    store = await stores.open(url)
    document = await store.read_document("hosts")
    assert document is not None
    rows = {row.address: row for row in decode_rows(document.data)}
    latest = time.time() + 3600
    assert latest - 60 < rows[host["address"]].weight_at <= latest
    key = UserKey(int(user["key"], 16))
    (record,) = [one for one in await stored(store, key >> BUCKET_SHIFT) if one.key == key]
    assert latest - 60 < record.decided <= latest
    assert record.seen == record.decided
    await store.close()
    again = director("state", "import", "-", "--json", "--store", url, stdin=exported)
    assert json.loads(again.stdout)["imported"]["clipped"] == 2


async def test_nothing_is_imported_from_a_shortened_file(tmp_path: Path) -> None:
    ran = director(
        "state", "import", "-", "--store", f"sqlite:///{tmp_path}/new.db", stdin=SAMPLE.read_bytes()[:-2]
    )
    assert (ran.returncode, ran.stdout) == (DATA, "")
    assert ran.stderr == (
        "director: -: line 11: not a line of an export: Input data was truncated; nothing was imported\n"
    )
    assert files(tmp_path) == []


async def test_the_format_of_an_export_stays_readable(tmp_path: Path) -> None:
    said = done("state", "import", str(SAMPLE), "--store", f"sqlite:///{tmp_path}/new.db")
    assert "users      3 new, 0 changed, 0 as they were\n" in said


class Failing(MemoryStore):
    """A store that fails once, at its n-th write of buckets, of which half has been done."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self.writes, self.fails_at = 0, fails_at

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        self.writes += 1
        if self.writes == self.fails_at:
            await super().swap_buckets(swaps[: len(swaps) // 2])
            raise StoreUnavailable(self.url, "swap_buckets", reason="the cable was pulled")
        return await super().swap_buckets(swaps)


def ignored(done: int, of: int) -> None:
    """Ignore the progress."""


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_running_an_interrupted_import_again_completes_it(
    fails_at: int, filled: str, tmp_path: Path, stores: Stores
) -> None:
    file = tmp_path / "backup.jsonl"
    done("state", "export", str(file), "--store", filled)
    store = Failing(fails_at)
    await store.open()
    with file.open("rb") as source:
        whole = ExportFile(source, "backup.jsonl", NOW, ignored)
        with pytest.raises(StoreProblem), problems():
            await load(store, whole, ignored)
        await load(store, whole, ignored)
    assert await everything(store) == await everything(await stores.open(filled))


async def test_a_failed_export_leaves_the_earlier_file(tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    file.write_text("yesterday's")
    ran = director("state", "export", str(file), "--store", f"sqlite:///{tmp_path}/none.db")
    assert (ran.returncode, ran.stderr) == (
        69,
        f"director: sqlite:///{tmp_path}/none.db: empty: no director has used this store yet\n",
    )
    assert file.read_text() == "yesterday's"
    assert files(tmp_path) == ["backup.jsonl"]


async def test_an_export_can_be_read_by_its_owner_only(filled: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    done("state", "export", str(file), "--store", filled)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_verify_shows_its_progress_on_a_terminal(filled: str) -> None:
    assert "state verify: 1 %" in shown_on_a_terminal("state", "verify", "--store", filled)


# ---- info


async def test_info_counts_the_content_of_a_store(filled: str) -> None:
    info = json.loads(done("state", "info", "--json", "--store", filled))
    contents = info["contents"]
    assert (info["schema"], info["schema_known"], info["held_by"]) == (SCHEMA, SCHEMA, [])
    assert (contents["users"], contents["names"], contents["audit_entries"]) == (3, 3, 0)
    assert [document["name"] for document in contents["documents"]] == ["hosts", "members", "plan"]
    assert f"users     3 in {contents['user_buckets']} buckets\n" in done("state", "info", "--store", filled)


async def test_info_of_a_missing_store_reports_it_and_creates_none(tmp_path: Path) -> None:
    said = done("state", "info", "--store", f"sqlite:///{tmp_path}/none.db")
    assert "schema    none: no director has used this store yet\n" in said
    assert files(tmp_path) == []


async def test_the_store_of_the_configuration_is_used_though_other_keys_of_the_file_are_wrong(
    tmp_path: Path,
) -> None:
    config = tmp_path / "director.toml"
    config.write_text('state = "sqlite:///s.db"\n[ring]\nservers = ["no.such.name.invalid"]\nnonsense = 1\n')
    said = done("state", "info", "-c", str(config))
    assert said.startswith("store     sqlite:///s.db\n")


# ---- verify


async def test_verify_reports_no_finding_for_an_undamaged_store(filled: str) -> None:
    assert done("state", "verify", "--store", filled) == "3 users and 3 names in 6 buckets: good\n"


async def test_every_finding_is_explained_and_then_repaired(filled: str, stores: Stores) -> None:
    other = (NUMBER + 1) % 4096
    store = await stores.open(filled)
    ghost = user("ghost", host=77)
    pinned = user("pinned", host=78, flags=PINNED | BY_HAND)
    await put_users(store, ghost, pinned)
    await put(store, "users", NUMBER, pack([ALICE]) + b"cut")
    await put(store, "users", other, pack([ALICE._replace(decided=Stamp(NOW), host=GOLDIE.host)]))
    await put(store, "names", NUMBER, entry(ALICE.key, b"alice") + entry(ALICE.key, b"alice"))
    held = await store.read_document("hosts")
    assert held is not None
    await store.swap_document("hosts", held.version, encode_rows([*HOSTS, HOSTS[0]]))
    await store.close()
    found = director("state", "verify", "--store", filled)
    assert (found.returncode, found.stderr) == (DATA, "")
    for text in (
        "document hosts: two rows of 10.1.0.1\n",
        f"users, bucket {NUMBER}: 3 bytes after the last whole record\n",
        f"users, bucket {other}: records that belong to other buckets: 1\n",
        f"users, host id {ghost.host}: records of a host that is not in the hosts' document",
        f"names, bucket {NUMBER}: names of a key that has one already: 1\n",
        "6 findings, 0 repaired\n",
    ):
        assert text in found.stdout
    fixed = director("state", "verify", "--fix", "--reason", "disk", "--store", filled)
    assert (fixed.returncode, fixed.stderr) == (DATA, "")
    assert "6 findings, 5 repaired\n" in fixed.stdout
    assert "left:     dropped: 0, kept: 1; `director add` the host" in fixed.stdout
    again = await stores.open(filled)
    assert await stored(again, NUMBER) == [ALICE._replace(decided=Stamp(NOW), host=GOLDIE.host)]
    assert await stored(again, other) == []
    assert await stored(again, ghost.key >> BUCKET_SHIFT) == []
    assert await stored(again, pinned.key >> BUCKET_SHIFT) == [pinned]
    (entry_,) = await again.audit(10)
    assert (entry_.what, entry_.detail, entry_.reason) == (
        "state verify --fix",
        "repaired 5 of 6 findings",
        "disk",
    )
    await again.close()
    assert "1 finding, 0 repaired\n" in director("state", "verify", "--store", filled).stdout


def append_behind_its_back(url: str, redis_server: RedisServer, number: int) -> None:
    """Append bytes to a bucket and to the hosts' document without changing their versions."""
    if url.startswith("sqlite"):
        db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        db.execute(
            "UPDATE bucket SET data = CAST(data || x'637574' AS BLOB) WHERE space = 'users' AND id = ?",
            (number,),
        )
        db.execute("UPDATE document SET data = CAST(data || x'637574' AS BLOB) WHERE name = 'hosts'")
        db.close()
    else:
        redis_server.command("APPEND", f"dd:{{u{number >> 6:02x}}}{number:03x}", "cut")
        redis_server.command("APPEND", "dd:doc:hosts", "cut")


async def test_content_that_changed_without_its_version_is_repaired(
    filled: str, stores: Stores, redis_server: RedisServer
) -> None:
    append_behind_its_back(filled, redis_server, NUMBER)
    assert director("state", "verify", "--store", filled).returncode == DATA
    done("state", "verify", "--fix", "--store", filled)
    assert done("state", "verify", "--store", filled).endswith(": good\n")
    store = await stores.open(filled)
    assert await stored(store, NUMBER) == [ALICE]


async def test_a_damaged_hosts_document_is_set_aside_and_its_undamaged_rows_are_saved(
    filled: str, stores: Stores
) -> None:
    store = await stores.open(filled)
    held = await store.read_document("hosts")
    assert held is not None
    damaged = held.data.replace(b"10.1.0.2", b"10.1.0.x")
    await store.swap_document("hosts", held.version, damaged)
    await store.close()
    assert director("state", "verify", "--store", filled).returncode == DATA
    assert "a row's checksum is not that of its content" in done(
        "state", "verify", "--fix", "--store", filled
    )
    again = await stores.open(filled)
    repaired = await again.read_document("hosts")
    (name,) = [one for one in await again.documents() if one.startswith("hosts.damaged-")]
    assert name.endswith(f"-{version_of(damaged).hex()}")
    aside = await again.read_document(name)
    assert repaired is not None
    assert aside is not None
    assert decode_rows(repaired.data) == [HOSTS[0], HOSTS[2]]
    assert aside.data == damaged
    # The user's host has no row now, but a director that has the row may write it again.
    assert await stored(again, GOLDIE.key >> BUCKET_SHIFT) == [GOLDIE]


async def test_without_a_hosts_document_no_user_is_dropped(filled: str, stores: Stores) -> None:
    store = await stores.open(filled)
    held = await store.read_document("hosts")
    assert held is not None
    await store.swap_document("hosts", held.version, b"")
    before = await everything(store)
    await store.close()
    done("state", "verify", "--fix", "--store", filled)
    assert await everything(await stores.open(filled)) == before


@pytest.mark.parametrize("fails_at", [1, 2, 3])
async def test_running_an_interrupted_repair_again_completes_it(fails_at: int) -> None:
    strays = [user(f"stray{number}", flags=PINNED) for number in range(20)]
    store = Failing(fails_at + 1)
    await store.open()
    damaged = [Swap("users", NUMBER, EMPTY_VERSION, pack([ALICE, *strays]) + b"cut")]
    await store.swap_buckets(damaged)
    with pytest.raises(StoreUnavailable):
        [found async for found in Verification(store, TimeLimits.at(NOW, 900), fix=True).findings(ignored)]
    [found async for found in Verification(store, TimeLimits.at(NOW, 900), fix=True).findings(ignored)]
    assert [
        found async for found in Verification(store, TimeLimits.at(NOW, 900), fix=False).findings(ignored)
    ] == []
    for one in [ALICE, *strays]:
        assert one in await stored(store, one.key >> BUCKET_SHIFT)


class Busy(MemoryStore):
    """A store whose bucket another program writes just before the first swap."""

    def __init__(self, blob: bytes) -> None:
        super().__init__()
        self._blob = blob

    async def swap_buckets(self, swaps: Sequence[Swap]) -> list[Swapped | Lost]:
        if self._blob:
            blob, self._blob = self._blob, b""
            (held,) = await self.read_buckets("users", [NUMBER])
            await super().swap_buckets([Swap("users", NUMBER, held.version, blob)])
        return await super().swap_buckets(swaps)


async def test_a_repair_keeps_concurrent_writes_of_a_director() -> None:
    later = ALICE._replace(decided=Stamp(NOW), flags=BY_HAND)
    store = Busy(pack([later]) + b"cut")
    await store.open()
    await MemoryStore.swap_buckets(store, [Swap("users", NUMBER, EMPTY_VERSION, pack([ALICE]) + b"x")])
    walk = Verification(store, TimeLimits.at(NOW, 900), fix=True)
    findings: list[Finding] = [finding async for finding in walk.findings(ignored)]
    assert [finding.fixed for finding in findings] == [True]
    assert await stored(store, NUMBER) == [later]


async def test_an_import_keeps_concurrent_writes_of_a_director() -> None:
    neighbour = ALICE._replace(key=UserKey(ALICE.key + 1))
    store = Busy(pack([neighbour]))
    await store.open()
    whole = ExportFile(io.BytesIO(SAMPLE.read_bytes()), "backup.jsonl", NOW, ignored)
    imported = await load(store, whole, ignored)
    assert [one.key for one in await stored(store, NUMBER)] == [ALICE.key, neighbour.key]
    assert (imported.users.new, imported.users.unchanged) == (3, 0)


async def test_an_unreadable_audit_is_a_finding_with_its_remedy(
    redis_server: RedisServer, stores: Stores
) -> None:
    store = await stores.open(redis_server.url)
    await fill(store)
    redis_server.command("XADD", "dd:audit", "1-1", "e", "nonsense")
    ran = director("state", "verify", "--store", redis_server.url)
    assert ran.returncode == DATA
    assert "audit: an entry cannot be read\n" in ran.stdout
    assert "to remove it: XDEL dd:audit 1-1" in ran.stdout
    assert "audit     not readable" in done("state", "info", "--store", redis_server.url)


# ---- stores that cannot be used


EVERY = [
    ["state", "info"],
    ["state", "verify"],
    ["state", "export", "-"],
    ["migrate"],
    ["migrate", "--dry-run"],
]


READING = [command for command in EVERY if command != ["migrate"]]
WRITING = [["migrate"], ["state", "verify", "--fix"], ["state", "import", str(SAMPLE)]]


@pytest.mark.parametrize("command", READING)
async def test_a_file_in_use_by_a_director_can_be_read(
    tmp_path: Path, stores: Stores, command: list[str]
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    store = await stores.open(url)
    await fill(store)
    before = files(tmp_path)
    done(*command, "--store", url)
    assert files(tmp_path) == before
    assert before == ["state.db", "state.db-shm", "state.db-wal", "state.db.lock"]
    await put_users(store, user("later"))
    said = done(*command, "--store", url)
    if command == ["state", "verify"]:
        assert said == "4 users and 3 names in 7 buckets: good\n"
    if command == ["state", "export", "-"]:
        assert said.endswith('"users":4,"names":3}\n')
    assert store.set_aside is None
    assert await store.swap_document("after", EMPTY_VERSION, b"x") == Swapped(version_of(b"x"))


@pytest.mark.parametrize("command", [["state", "info"], ["state", "verify"], ["state", "export", "-"]])
async def test_reading_the_damaged_file_of_a_stopped_director_does_not_set_it_aside(
    tmp_path: Path, stores: Stores, command: list[str]
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    store = await stores.open(url)
    await fill(store)
    await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db, db:
        db.execute("UPDATE document SET data = 'a text' WHERE name = 'hosts'")
    director(*command, "--store", url)
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        assert db.execute("SELECT data FROM document WHERE name = 'hosts'").fetchone() == ("a text",)
    assert not [file for file in files(tmp_path) if "damaged" in file]


async def test_a_read_beside_a_running_director_sees_one_moment(tmp_path: Path, stores: Stores) -> None:
    store = await stores.open("sqlite:///state.db", folder=tmp_path)
    await fill(store)
    reader = stores.keep(open_store("sqlite:///state.db", base_dir=tmp_path, beside=True))
    await reader.open()
    before = await everything(reader)
    assert before == await everything(store)
    await put_users(store, user("later"))
    held = await store.read_document("hosts")
    assert held is not None
    await store.swap_document("hosts", held.version, encode_rows(HOSTS[:1]))
    assert await everything(reader) == before
    with pytest.raises(StoreRefused, match="stop the director"):
        await reader.swap_document("hosts", held.version, b"x")
    with pytest.raises(StoreRefused, match="stop the director"):
        await reader.swap_buckets([Swap("users", 1, EMPTY_VERSION, b"x")])
    with pytest.raises(StoreRefused, match="stop the director"):
        await reader.append_audit([])
    await reader.close()
    assert await everything(store) != before
    assert store.set_aside is None


@pytest.mark.parametrize("command", WRITING)
async def test_a_file_in_use_by_a_director_is_exit_code_69(
    tmp_path: Path, stores: Stores, command: list[str]
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    await stores.open(url)
    ran = director(*command, "--store", url)
    assert (ran.returncode, ran.stdout) == (69, "")
    assert ran.stderr == (
        f"director: {url}: {tmp_path}/state.db is in use by process {os.getpid()}:"
        " stop that process, or give each director its own file\n"
    )


def newer(url: str, redis_server: RedisServer) -> None:
    if url.startswith("sqlite"):
        db = sqlite3.connect(url.removeprefix("sqlite:///"))
        db.execute("UPDATE meta SET schema = 99")
        db.commit()
        db.close()
    else:
        redis_server.command("HSET", "dd:meta", "schema", "99")


@pytest.mark.parametrize("command", [*EVERY, ["state", "import", str(SAMPLE)]])
async def test_a_store_newer_than_the_program_is_exit_code_78(
    tmp_path: Path, stores: Stores, command: list[str]
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    await (await stores.open(url)).close()
    db = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    db.execute("UPDATE meta SET schema = 99")
    db.close()
    assert_too_new(director(*command, "--store", url))


async def test_a_shared_store_newer_than_the_program_is_exit_code_78(
    redis_server: RedisServer,
) -> None:
    redis_server.command("HSET", "dd:meta", "schema", "99")
    assert_too_new(director("state", "verify", "--fix", "--store", redis_server.url))


def assert_too_new(ran: subprocess.CompletedProcess[str]) -> None:
    assert (ran.returncode, ran.stdout) == (78, "")
    assert (
        f"has schema 99, this program knows up to {SCHEMA}: upgrade the program, or name another store"
        in ran.stderr
    )


async def test_a_damaged_file_is_left_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    ran = director("state", "verify", "--store", f"sqlite:///{tmp_path}/state.db")
    assert ran.returncode == 69
    assert "is damaged" in ran.stderr
    assert files(tmp_path) == ["state.db", "state.db.lock"]


async def test_a_password_is_neither_in_errors_nor_in_an_export() -> None:
    port = free_port()
    ran = director("state", "info", "--store", f"redis://:geheim@127.0.0.1:{port}")
    assert ran.returncode == 69
    assert "geheim" not in ran.stderr
    with RedisServer(port=port, password="geheim") as server:
        done("migrate", "--store", server.tcp_url)
        assert "geheim" not in done("state", "export", "-", "--store", server.tcp_url)


# ---- migrate


async def test_a_dry_run_of_migrate_lists_the_steps_and_runs_none(
    url: str, redis_server: RedisServer
) -> None:
    said = done("migrate", "--dry-run", "--store", url)
    assert f"schema none; this program knows {SCHEMA}\nwould run 0001: " in said
    assert said.endswith("dry run: nothing is changed\n")
    assert "schema    none" in done("state", "info", "--store", url)


async def test_migrate_runs_the_steps_once_and_records_them_in_the_audit(url: str, stores: Stores) -> None:
    assert done("migrate", "--reason", "upgrade", "--store", url).endswith("done\n")
    assert done("migrate", "--store", url).endswith("nothing to do\n")
    store = await stores.open(url)
    (entry,) = await store.audit(10)
    assert (entry.what, entry.detail, entry.reason) == ("migrate", f"from schema 0 to {SCHEMA}", "upgrade")
