"""Parsers and writers of `director.wire`: they refuse with the promised error, and do not depend on how
data is split."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from director.core.protocol.kicktypes import ByField, ByName, Fence, HashOnHosts, KickWhat, OnHost
from director.net.notify import LINE_LIMIT as NOTIFY_LIMIT
from director.net.notify import NotifyReader
from director.wire import admin, anvil, authreply, flushprogram, ipc, socketmap
from director.wire.sessions import Census, SessionList
from director.wire.tabs import LineBuffer, LineTooLong, escape, is_version, split, unescape
from tests.fuzz.engine import Case, Target
from tests.fuzz.inputs import changed, line, noise, pieces, word

KICKS: list[KickWhat] = [
    HashOnHosts(1, ("10.0.0.1", "::1")),
    ByName(b"alice\t\x01"),
    ByField("user_dirkey", b"1@10.0.0.1"),
    ByField("user_x", b"\xff\n"),
    OnHost("10.0.0.1"),
    Fence(),
]


def refused(parse: Callable[[], Any], *kinds: type[Exception]) -> Any:
    """Return the result of `parse`, or type and text of its error if that is one of `kinds`."""
    try:
        return parse()
    except kinds as exc:
        error = exc
    assert str(error), "an error without a text"
    assert "\n" not in str(error), f"an error of several lines: {error}"
    return type(error), str(error)


# ---- TAB separated lines


def make_tabs(rng: random.Random) -> Case:
    return pieces(rng, b"\n".join(line(rng) for _ in range(rng.randrange(6))) + noise(rng, 5))


def check_tabs(case: Case) -> None:
    data = b"".join(case)
    assert unescape(escape(data)) == data
    assert not set(escape(data)) & set(b"\0\t\r\n")
    unbroken = data.replace(b"\n", b"")
    assert split(unbroken) == [unescape(field) for field in unbroken.split(b"\t")]
    is_version(unbroken, b"name", 1)
    at_once, piecewise = _buffered([data]), _buffered(case)
    assert at_once == piecewise
    assert all(len(line) <= 20 for line in at_once[0])


def _buffered(data: list[bytes]) -> tuple[list[bytes], bool]:
    """Return the lines from a buffer, and whether a line was too long."""
    buffer, lines = LineBuffer(20), []
    for piece in data:
        try:
            lines += buffer.feed(piece)
        except LineTooLong as exc:
            return [*lines, *exc.before.split(b"\n")[:-1]], True
        assert len(buffer.rest) <= 20
    return lines, False


# ---- doveadm director

COMMANDS = [
    *(b"HOST-LIST", b"HOST-LIST-REMOVED", b"HOST-SET", b"HOST-UPDATE", b"HOST-UP", b"HOST-DOWN"),
    *(b"HOST-REMOVE", b"HOST-FLUSH", b"HOST-RESET-USERS", b"USER-LOOKUP", b"USER-LIST", b"USER-MOVE"),
    *(b"USER-KICK", b"USER-KICK-ALT", b"DIRECTOR-LIST", b"DIRECTOR-ADD", b"DIRECTOR-REMOVE"),
]
PARAMETERS = [b"10.1.0.1", b"10.1.0.1@blue", b"@", b"100", b"alice", b"nowait", b"9090", b"user_x", b"[::1]"]


def make_admin(rng: random.Random) -> Case:
    found: Case = []
    for _ in range(rng.randrange(1, 6)):
        made = b"\t".join([word(rng, COMMANDS), *(word(rng, PARAMETERS) for _ in range(rng.randrange(4)))])
        found.append((changed(rng, made) if rng.random() < 0.2 else made).replace(b"\n", b""))
    return found


def check_admin(case: Case) -> None:
    for data in case:
        reply, text = b"", ""
        try:
            admin.parse(data)
        except admin.AdminSyntaxError as exc:
            reply, text = exc.reply, str(exc)
        assert "\n" not in text
        assert len(text) < 1000
        assert reply == b"" or (reply.endswith(b"\n") and reply.count(b"\n") == 1)
        assert reply != b"\n", "an empty data is the end of a list"
        refused(lambda data=data: admin.check_version(data), admin.AdminSyntaxError)
        refused(lambda data=data: authreply.check_version(data), authreply.AuthreplyError)
        assert admin.refusal(data.decode("utf-8", "surrogateescape")).count(b"\n") == 1


# ---- Postfix's socketmap


def make_socketmap(rng: random.Random) -> Case:
    data = b""
    for _ in range(rng.randrange(5)):
        content = b" ".join(word(rng, [b"director", b"alice@example.com"]) for _ in range(rng.randrange(4)))
        made = socketmap.netstring(content)
        data += changed(rng, made) if rng.random() < 0.3 else made
    return pieces(rng, data + (noise(rng, 5) if rng.random() < 0.2 else b""))


def check_socketmap(case: Case) -> None:
    at_once, piecewise = _netstrings([b"".join(case)]), _netstrings(case)
    assert (at_once[0], bool(at_once[1])) == (piecewise[0], bool(piecewise[1]))
    for content in at_once[0]:
        found = refused(lambda content=content: socketmap.parse(content), socketmap.SocketmapError)
        if isinstance(found, socketmap.Request):
            assert found.map + b" " + found.key == content
        text = content.decode("utf-8", "surrogateescape")
        for reply in (socketmap.try_again(text), socketmap.never(text)):
            assert len(reply) <= socketmap.LIMIT
            assert b"\n" not in reply


def _netstrings(data: list[bytes]) -> tuple[list[bytes], str]:
    """Return the contents of the netstrings of a stream, and why no more came."""
    strings, found = socketmap.Netstrings(), []
    try:
        for piece in data:
            while contents := strings.feed(piece):
                found += contents
                piece = b""
    except socketmap.SocketmapError as exc:
        return found, str(exc)
    return found, "unfinished" if strings.unfinished else ""


# ---- the kick channels of 2.3 and 2.4

HEADER = b"username\tuser_dirkey\tdest-ip\tdest-port"
COLUMNS = [b"username", b"user_dirkey", b"user_x", b"dest-ip", b"dest-port", b"1@10.0.0.1", b"4711", b"imap"]


SESSION = [b"17", b"alice", b"imap", b"192.0.2.1", b"id", b"10.0.0.1", b"1@10.0.0.1", b"x"]


def make_ipc(rng: random.Random) -> Case:
    found: Case = [b":" + HEADER]
    for _ in range(rng.randrange(6)):
        start = rng.choice((b":", b":", b":", b"+", b"-", b""))
        found.append(start + (HEADER if rng.random() < 0.2 else line(rng, COLUMNS, most=5)))
    return [changed(rng, reply) if rng.random() < 0.1 else reply for reply in found]


def check_ipc(case: Case) -> None:
    for listing in (Census(), SessionList()):
        rows = ipc.ListingRows(listing)
        for data in case:
            match refused(lambda data=data: ipc.read_reply(data), ipc.Malformed):
                case ipc.Row(row):
                    rows.add(row)
                case ipc.Done(count):
                    assert 0 <= count < 1 << 32
        if isinstance(listing, Census):
            assert all(listing.take(what) >= 0 for what in KICKS)
    for what in KICKS:
        assert all(data.count(b"\n") == 1 and data.endswith(b"\n") for data in ipc.kick_requests(what))


def make_anvil(rng: random.Random) -> Case:
    fields = [b"user_dirkey", b"user_x"] if rng.random() < 0.7 else []
    found: Case = [b"\t".join([*fields, *(word(rng, COLUMNS) for _ in range(rng.randrange(3)))])]
    for _ in range(rng.randrange(6)):
        row = b"\t".join(word(rng, [value]) for value in SESSION[: rng.choice((5, 6, 7, 8))])
        found.append(changed(rng, row) if rng.random() < 0.1 else row)
    return [row.replace(b"\n", b"") for row in found]


def check_anvil(case: Case) -> None:
    sessions = anvil.Sessions()
    for listing in (sessions, Census(), SessionList()):
        rows = anvil.SessionRows(listing)
        for row_ in case:
            rows.add(row_)
    for row_ in case:
        count = refused(lambda row_=row_: anvil.read_count(row_), ValueError)
        assert isinstance(count, tuple) or 0 <= count < 10**10
    for what in KICKS:
        lines = anvil.kick_requests(what, sessions)
        assert all(row_.count(b"\n") == 1 and row_.endswith(b"\n") for row_ in lines)
        assert all(session in sessions.sessions for session in sessions.of(what))
    for session in sessions.sessions:
        assert anvil.kick_one(session).count(b"\n") == 1


# ---- flush programs

SETTINGS = [
    *("unix:/run/%i", "tcp:%h:4155", "exec:/bin/flush %{ip} %%", "tcp:[::1]:1", "tcp:x:0", "exec:x", "unix:"),
    *("%{", "%{x}", "%", "tcp::1", "tcp:a:99999", "tcp:a:٣", "exec:/ %h", "unix:%{host}", ":", ""),
]
REQUEST = flushprogram.FlushRequest(1, "10.0.0.1", "10.0.0.2", True, 100, "mail1")


def make_flush(rng: random.Random) -> Case:
    setting = rng.choice(SETTINGS)
    if rng.random() < 0.6:
        setting = changed(rng, setting.encode()).decode("utf-8", "replace")
    printed = [b"line\n", b"+\n", b"-\n", b"\r\n", b"x" * 9000]
    output = b"".join(word(rng, printed) for _ in range(rng.randrange(5)))
    return [setting, *pieces(rng, output)]


def check_flush(case: Case) -> None:
    setting = next((part for part in case if isinstance(part, str)), "")
    output = [part for part in case if isinstance(part, bytes)]
    read = refused(lambda: flushprogram.read_setting(setting), ValueError)
    filled = refused(lambda: flushprogram.program_for(setting, REQUEST), ValueError)
    assert isinstance(read, tuple) == isinstance(filled, tuple)
    at_once, piecewise = flushprogram.Output(), flushprogram.Output()
    at_once.feed(b"".join(output))
    for piece in output:
        piecewise.feed(piece)
    assert at_once.of_script() == piecewise.of_script()
    for status in (0, 1, -9):
        assert at_once.of_command(status) == piecewise.of_command(status)


# ---- proxy-notify


def make_notify(rng: random.Random) -> Case:
    names = [word(rng, [b"alice", b"bob", b"x" * (NOTIFY_LIMIT + 1)]) for _ in range(rng.randrange(6))]
    return pieces(rng, b"\n".join(names) + noise(rng, 3))


def check_notify(case: Case) -> None:
    assert _notified([b"".join(case)])[0] == _notified(case)[0]
    assert _notified([b"".join(case)])[1] == _notified(case)[1]


def _notified(data: list[bytes]) -> tuple[list[bytes], int]:
    names: list[bytes] = []
    skipped: list[int] = []
    reader = NotifyReader(names.extend, skipped.append)
    for piece in data:
        reader.data_received(piece)
        assert len(reader.rest) <= NOTIFY_LIMIT
    return names, len(skipped)


TARGETS = [
    Target("tabs", make_tabs, check_tabs),
    Target("admin", make_admin, check_admin),
    Target("socketmap", make_socketmap, check_socketmap),
    Target("ipc", make_ipc, check_ipc),
    Target("anvil", make_anvil, check_anvil),
    Target("flush", make_flush, check_flush),
    Target("notify", make_notify, check_notify),
]
