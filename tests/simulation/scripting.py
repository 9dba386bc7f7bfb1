"""Scripts of whole rings: readable commands, each with its recorded outcome below it, in one file.

A line that begins at the margin is a command or a comment (`#`); indented lines are the recorded outcome.
Times in the outcome are virtual and rounded, so a run is the same everywhere. Names: directors `d1` …,
backend hosts `b1` … (127.0.1.1 …), users are words. `COMMANDS` lists the commands, and
`tests/simulation/scripts/` has the scripts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from director.core.moves.movestate import SUBJECT
from director.core.placement.addresses import host_id
from director.core.placement.users import BY_HAND, MOVING, PINNED, User, pack
from director.core.protocol.events import Received
from director.core.protocol.kicktypes import ByName
from director.core.protocol.messages import HostRow, Hosts, Leaving, MoveRound, RingMessage, Token, Users
from director.core.settings import Settings
from director.types import Address, HostId, Stamp, UserKey
from tests.simulation.parts import Outcome, Reply
from tests.simulation.world import HASH, Node, World

REPORTED = {
    "kick_failed",
    "move_timed_out",
    "process_stalled",
    "removed_from_ring",
    "user_on_two_hosts",
}
"""The log events of directors that belong to an outcome."""
FLAGS = ((MOVING, "moving"), (BY_HAND, "by hand"), (PINNED, "pinned"))
FEW = 6
"""The most logins of a command that are listed one by one; more are summed up."""
COUNTED = ("Users", "Hosts", "Token", "MoveRound", "NearRound", "KickRound", "Members", "Leaving", "Redirect")


class Stage(World):
    """A world that records the answers, log events and results of a ring."""

    def __init__(self, directors: int, hosts: int, store: str, seed: int) -> None:
        super().__init__(directors, hosts, store, seed)
        self.seen_events: list[str] = []
        self.operations: dict[str, Outcome] = {}

    def log(self, node: Node, event: str, fields: Any) -> None:
        super().log(node, event, fields)
        if event in REPORTED:
            shown = " ".join(f"{key}={self.short(value)}" for key, value in fields.items() if key != "hash")
            self.note(f"{self.name(node)} logs {event} {shown}".rstrip())

    def replied(self, node: Node, reply: Reply) -> None:
        super().replied(node, reply)
        waited = self.now - reply.asked
        after = "" if waited < 0.05 else f" after {waited:.1f} s"
        answer = f"refused: {reply.refused}" if reply.refused else self.short(reply.host)
        self.note(f"{reply.user} at {self.name(node)}: {answer}{after}")

    def note(self, text: str) -> None:
        self.seen_events.append(text)

    def name(self, node: Node) -> str:
        return f"d{self.members.index(node.member) + 1}"

    def short(self, value: object) -> str:
        """Return a text with the names of this script instead of addresses."""
        text = re.sub(r"127\.0\.1\.(\d+)", r"b\1", str(value))
        return re.sub(r"127\.0\.0\.(\d\d):9090", lambda found: f"d{int(found[1]) - 10}", text)

    def host_name(self, host: HostId) -> str:
        if host == 0:
            return "no host"
        names = [a for i in range(1, 20) if host_id(a := Address(f"127.0.1.{i}")) == host]
        return self.short(names[0]) if names else "an unknown host"


class Script:
    """A script that is being run."""

    def __init__(self) -> None:
        self.world = Stage(1, 1, "own", 1)
        self._numbers = 0

    def play(self, command: str) -> list[str]:
        """Run a command, and return its outcome. Raises ValueError if it is no command."""
        for pattern, call in COMMANDS:
            match = re.fullmatch(pattern, command)
            if match is not None:
                lines = call(self, **match.groupdict()) or []
                lines += self._ends()
                events, self.world.seen_events = self.world.seen_events, []
                return merged_repeats(events) + lines
        raise ValueError(f"no such command: {command!r}")

    def _ends(self) -> list[str]:
        """Return the operations that have ended since the last command."""
        lines = []
        for name, outcome in list(self.world.operations.items()):
            if not outcome.pending:
                del self.world.operations[name]
                lines.append(f"{name}: {self._result(outcome)}")
        return lines

    def _result(self, outcome: Outcome) -> str:
        if outcome.failed is not None:
            return f"refused: {self.world.short(outcome.failed)}"
        if isinstance(outcome.done, HostRow):
            return f"done, {state_of(outcome.done)}"
        if outcome.users is None:
            return "done"
        users = outcome.users
        fields = ("moved", "unchanged", "superseded", "kicked", "timed_out")
        parts = [f"{field}={getattr(users, field)}" for field in fields if getattr(users, field)]
        if users.not_reached:
            parts.append(f"not_reached={','.join(map(self.world.short, users.not_reached))}")
        return " ".join(["done", *parts])

    def _begun(self, what: str, outcome: Outcome) -> None:
        self._numbers += 1
        self.world.operations[f"#{self._numbers} {what}"] = outcome

    # ---- the ring, its faults and its stores

    def ring(self, directors: str, options: str) -> None:
        given: dict[str, str] = dict(word.split("=") for word in options.split())
        world = Stage(
            int(directors),
            int(given.pop("hosts", "4")),
            given.pop("store", "own"),
            int(given.pop("seed", "1")),
        )
        world.proxying = True
        program = given.pop("program", "no") == "yes"
        start = given.pop("start", "all")
        world.settings_of_core = Settings(
            flush_program=program, **{key: int(value) for key, value in given.items()}
        )
        self.world = world
        if start == "all":
            world.start().run_until_in_sync(2.0).run(0.2)
            self.show_messages()

    def run(self, seconds: str) -> None:
        self.world.run(duration(seconds))

    def on_node(self, what: str, name: str) -> None:
        node = self.world.node(name)
        calls: dict[str, Callable[[], None]] = {
            "start": node.start,
            "stop": node.stop,
            "crash": node.crash,
            "vanish": lambda: node.crash(silently=True),
            "suspend": node.suspend,
            "resume": node.resume,
        }
        calls[what]()
        self.world.run(0.05)

    def partition_off(self, names: str) -> None:
        self.world.partition_off(*names.split())

    def heal(self) -> None:
        self.world.heal()

    def block(self, name: str) -> None:
        """Make this director unreachable for dialling. It can dial others."""
        target = self.world.node(name).member
        self.world.blocked = {(member, target) for member in self.world.members}

    def lose(self, what: str, seconds: str) -> None:
        lose = self.world.lose_tokens if what == "tokens" else self.world.lose_rounds
        lose(duration(seconds))

    def delay(self, seconds: str) -> None:
        self.world.delays = (duration(seconds),) * 3

    def clock(self, name: str, seconds: str) -> None:
        self.world.node(name).skew += float(seconds)

    def day(self, seconds: str) -> None:
        """Advance all clocks at once."""
        for node in self.world.nodes.values():
            node.skew += float(seconds)

    def store(self, what: str) -> None:
        for node in self.world.nodes.values():
            node.store.up = what == "up"

    def kicks_take(self, name: str, seconds: str) -> None:
        takes = duration(seconds)
        self.world.node(name).kick_channel = lambda: takes

    def program_takes(self, seconds: str, fails: str | None) -> None:
        for node in self.world.nodes.values():
            node.flush_program = (duration(seconds), fails is None)

    # ---- users

    def login(self, users: str, names: str, tag: str | None) -> None:
        asked = [self.world.login(user, name, tag or "") for user in words(users) for name in names.split()]
        self.world.run(0.05)
        if len(asked) > FEW:
            self.world.seen_events.clear()
            hosts = [self.world.short(reply.host) for reply in asked if reply.host]
            shares = ", ".join(f"{host} {hosts.count(host)}" for host in sorted(set(hosts)))
            agree = len({(reply.user, reply.host) for reply in asked if reply.host})
            self.world.note(f"{len(hosts)} of {len(asked)} answered, {agree} users: {shares}")
            return
        for reply in asked:
            if reply.pending:
                at = self.world.nodes[reply.at]
                self.world.note(f"{reply.user} at {self.world.name(at)}: waits")

    def seen(self, user: str, name: str) -> None:
        self.world.seen(user, name)
        self.world.run(0.05)

    def place(self, users: str) -> list[str]:
        """Show the hosts that the hash selects for users, by the table of d1."""
        core = self.world.node("d1").core
        placed = ((user, core.assigner.place(HASH.hash(user.encode()), b"")) for user in words(users))
        return [f"{user}: {self.world.short(b.address) if b else 'nowhere'}" for user, b in placed]

    # ---- operators

    def move(self, user: str, host: str, name: str, pin: str | None) -> None:
        how = {"pin": True} if pin else {}
        self._begun(f"move {user} {host}", self.world.move(name, user, address(host), **how))
        self.world.run(0.05)

    def unpin(self, user: str, name: str) -> None:
        self._begun(f"unpin {user}", self.world.unpin(name, user))
        self.world.run(0.05)

    def flush(self, host: str | None, name: str) -> None:
        outcome = self.world.flush(name, address(host) if host else None)
        self._begun(f"flush {host or 'all'}", outcome)
        self.world.run(0.05)

    def forget(self, host: str | None, name: str) -> None:
        outcome = self.world.forget(name, address(host) if host else None)
        self._begun(f"forget {host or 'all'}", outcome)
        self.world.run(0.05)

    def kick(self, user: str, name: str, nowait: str | None) -> None:
        what = ByName(user.encode().decode("unicode_escape").encode())
        self._begun(f"kick {user}", self.world.kick(name, what, wait=nowait is None))
        self.world.run(0.05)

    def host(self, host: str, what: str, name: str) -> None:
        fields: dict[str, object] = {}
        for word in what.split():
            key, _, value = word.partition("=")
            match key:
                case "weight":
                    fields["weight"] = int(value)
                case "tag":
                    fields["tag"] = value
                case "up" | "down":
                    fields["up"] = key == "up"
                case _:
                    fields[key] = True
        self._begun(f"host {host} {what}", self.world.change(name, address(host), **fields))

    def director(self, what: str, target: str, name: str) -> None:
        outcome = self.world.change_member(name, target, remove=what == "remove")
        self._begun(f"{what} {target}", outcome)

    def hang_up(self, user: str, name: str) -> None:
        member = self.world.node(name).member
        (reply,) = [r for r in self.world.node(name).replies.values() if (r.user, r.at) == (user, member)]
        self.world.hang_up(reply)

    # ---- messages made up by a neighbour

    def tell(self, name: str, user: str, host: str, decided: str, seen: str, flags: str) -> None:
        """Send a record from the left neighbour. `decided` and `seen` are seconds from now."""
        node = self.world.node(name)
        unix = int(node.unix)
        bits = sum(bit for bit, word in FLAGS if word.replace(" ", "-") in flags)
        key = HASH.key(user.encode())
        at = HostId(0) if host == "none" else host_id(address(host))
        record = User(key, at, Stamp(unix + int(decided)), unix + int(seen), bits)
        self._send_from_left(node, Users(pack([record])))

    def tell_host(self, name: str, host: str, weight: str, at: str) -> None:
        node = self.world.node(name)
        stamp = int(node.unix) + int(at)
        row = HostRow(address(host), "", True, 0, "", 0, int(weight), stamp, True, 0)
        self._send_from_left(node, Hosts([row]))

    def tell_token(self, name: str, origin: str) -> None:
        """Send a token of the second lap that names `origin` as its origin."""
        node, begun = self.world.node(name), self.world.node(origin).member
        digest = node.core._agreement.digest
        passed = [member for member in self.world.members if member != node.member]
        self._send_from_left(node, Token(begun, 1, 1, digest, passed))

    def tell_leaving(self, name: str, who: str) -> None:
        leaver = self.world.node(who)
        self._send_from_left(self.world.node(name), Leaving(leaver.member, leaver.core.ring.presence.number))

    def tell_round(self, name: str, origin: str, user: str) -> None:
        node, begun = self.world.node(name), self.world.node(origin).member
        moves = SUBJECT.pack(HASH.key(user.encode()), int(node.unix))
        self._send_from_left(node, MoveRound(begun, 1, moves, [begun], [], 0))

    def _send_from_left(self, node: Node, message: RingMessage) -> None:
        left = node.core.ring.left
        assert left is not None, "the director has no left neighbour"
        node.handle(Received(left.link, [message]))
        self.world.run(0.05)

    # ---- state

    def show_users(self, users: str) -> list[str]:
        found = {user: alike(self._records(user)) for user in words(users)}
        if len(found) <= FEW:
            return [f"{user}: {text}" for user, text in found.items()]
        return [
            f"{text}: {' '.join(user for user in found if found[user] == text)}"
            for text in sorted(set(found.values()))
        ]

    def _records(self, user: str) -> dict[str, str]:
        key: UserKey = HASH.key(user.encode())
        found = {}
        for node in self.world.ups():
            record = node.users.get(key)
            text = "unknown"
            if record is not None and not node.core.hosts.host_removed(record):
                words = [self.world.host_name(record.host)]
                words += [word for bit, word in FLAGS if record.flags & bit]
                text = ", ".join(words)
            found[self.world.name(node)] = text
        return found

    def show_stamps(self, user: str) -> list[str]:
        """Show the stamps of a user as seconds from now."""
        found = {}
        for node in self.world.ups():
            record = node.users.get(HASH.key(user.encode()))
            assert record is not None
            unix = int(node.unix)
            found[self.world.name(node)] = (
                f"decided {record.decided - unix:+d} s, seen {record.seen - unix:+d} s"
            )
        return [f"{user}: {alike(found)}"]

    def show_sessions(self, users: str) -> list[str]:
        lines = []
        for user in words(users):
            at = [
                f"{self.world.name(node)} to {self.world.short(session.host)}"
                for node in self.world.nodes.values()
                for session in node.sessions
                if session.user == user
            ]
            lines.append(f"{user}: {', '.join(at) or 'none'}")
        return lines

    def show_ring(self) -> list[str]:
        found = {}
        for node in self.world.ups():
            core = node.core
            members = " ".join(map(self.world.short, core.barrier.ring))
            found[self.world.name(node)] = (
                f"{members}, {core.standing.value}, answers {core.assigner.gate.name}"
            )
        return alike_lines(found)

    def show_hosts(self) -> list[str]:
        lines = []
        rows = sorted({a for node in self.world.ups() for a in node.core.hosts.rows})
        for one in rows:
            found = {}
            for node in self.world.ups():
                row = node.core.hosts.rows.get(one)
                found[self.world.name(node)] = "unknown" if row is None else state_of(row)
            lines.append(f"{self.world.short(one)}: {alike(found)}")
        return lines

    def show_counters(self) -> list[str]:
        """Show the counters, and the operations in progress."""
        found = {}
        for node in self.world.ups():
            core = node.core
            counts = core.counters
            fields = {
                "moves": counts.moves_done,
                "superseded": counts.moves_superseded,
                "moves timed out": counts.moves_timed_out,
                "kicks": counts.kicks_done,
                "kicks timed out": counts.kicks_timed_out,
                "conflicts": counts.conflicts,
                "refused": counts.refused,
                "rounds near expiry": counts.near_rounds,
                "MOVING": len(core.moves),
                "KICKING": len(core.kicks),
                "WAITING": len(core.pending),
                "OPERATIONS": len(core.jobs),
            }
            found[self.world.name(node)] = (
                ", ".join(f"{key} {value}" for key, value in fields.items() if value) or "all 0"
            )
        return alike_lines(found)

    def show_kicks(self) -> list[str]:
        lines = [
            f"{self.world.name(node)}: {len(node.kicks)}" for node in self.world.nodes.values() if node.kicks
        ]
        return lines or ["none"]

    def show_programs(self) -> list[str]:
        lines = [
            f"{self.world.name(node)}: {len(node.flushes)}"
            for node in self.world.nodes.values()
            if node.flushes
        ]
        return lines or ["none"]

    def show_messages(self) -> list[str]:
        """Show what each director has received since the last `show messages`."""
        found = {}
        for node in self.world.ups():
            counts = node.core.counters.messages_in
            texts = [f"{kind} {counts[kind]}" for kind in COUNTED if counts.get(kind)]
            found[self.world.name(node)] = ", ".join(texts) or "none"
            counts.clear()
        return alike_lines(found)

    def show_differences(self) -> list[str]:
        return self.world.differences() or ["none"]


def state_of(row: HostRow) -> str:
    state = ("up" if row.up else "down") if row.present else "removed"
    return f"weight {row.weight}, {state}" + (f", tag {row.tag}" if row.tag else "")


def words(text: str) -> list[str]:
    """Return the words of `alice bob`, or of `user1..9`."""
    found = []
    for word in text.split():
        numbered = re.fullmatch(r"([a-z]+)(\d+)\.\.(\d+)", word)
        if numbered is None:
            found.append(word)
        else:
            found += [f"{numbered[1]}{n}" for n in range(int(numbered[2]), int(numbered[3]) + 1)]
    return found


def duration(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit]


def address(host: str) -> Address:
    return Address(f"127.0.1.{host[1:]}")


def alike(found: dict[str, str]) -> str:
    """Return one text if all texts are equal, else one for each name."""
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{name}: {text}" for name, text in found.items())


def alike_lines(found: dict[str, str]) -> list[str]:
    """Return one line if all texts are equal, else one for each name."""
    if len(set(found.values())) == 1:
        return [f"all: {alike(found)}"]
    return [f"{name}: {text}" for name, text in found.items()]


def merged_repeats(lines: list[str]) -> list[str]:
    """Return equal lines once, with their number."""
    counts: dict[str, int] = {}
    for line in lines:
        counts[line] = counts.get(line, 0) + 1
    return [line if count == 1 else f"{line} ({count} times)" for line, count in counts.items()]


AT = r" at (?P<name>d\d)"
COMMANDS: list[tuple[str, Callable[..., list[str] | None]]] = [
    (r"ring (?P<directors>\d+)(?P<options>( \w+=\S+)*)", Script.ring),
    (r"run (?P<seconds>\S+)", Script.run),
    (r"(?P<what>start|stop|crash|vanish|suspend|resume) (?P<name>d\d+)", Script.on_node),
    (r"partition off (?P<names>d\d( d\d)*)", Script.partition_off),
    (r"heal", Script.heal),
    (r"block (?P<name>d\d)", Script.block),
    (r"lose (?P<what>tokens|rounds) for (?P<seconds>\S+)", Script.lose),
    (r"delay (?P<seconds>\S+)", Script.delay),
    (r"clock (?P<name>d\d) (?P<seconds>[+-]\d+)", Script.clock),
    (r"clocks (?P<seconds>\+\d+)", Script.day),
    (r"store (?P<what>up|down)", Script.store),
    (r"kicks of (?P<name>d\d) take (?P<seconds>\S+)", Script.kicks_take),
    (r"flush program takes (?P<seconds>\S+)(?P<fails> and fails)?", Script.program_takes),
    (
        r"login (?P<users>[a-z]\S*( [a-z]\S*)*) at (?P<names>d\d( d\d)*)( tag=(?P<tag>\w+))?",
        Script.login,
    ),
    (r"seen (?P<user>\w+)" + AT, Script.seen),
    (r"place (?P<users>.+)", Script.place),
    (r"move (?P<user>\w+) to (?P<host>b\d)" + AT + r"(?P<pin> and pin)?", Script.move),
    (r"unpin (?P<user>\w+)" + AT, Script.unpin),
    (r"flush( (?P<host>b\d))?" + AT, Script.flush),
    (r"forget( (?P<host>b\d))?" + AT, Script.forget),
    (r"kick (?P<user>\S+)" + AT + r"(?P<nowait> nowait)?", Script.kick),
    (r"host (?P<host>b\d) (?P<what>.+)" + AT, Script.host),
    (r"director (?P<what>add|remove) (?P<target>d\d)" + AT, Script.director),
    (r"hang up (?P<user>\w+)" + AT, Script.hang_up),
    (
        r"tell (?P<name>d\d) (?P<user>\w+) (?P<host>b\d|none) decided=(?P<decided>[+-]\d+)"
        r" seen=(?P<seen>[+-]\d+)(?P<flags>.*)",
        Script.tell,
    ),
    (r"tell (?P<name>d\d) (?P<host>b\d) weight=(?P<weight>\d+) at=(?P<at>[+-]\d+)", Script.tell_host),
    (r"tell (?P<name>d\d) token of (?P<origin>d\d)", Script.tell_token),
    (r"tell (?P<name>d\d) leaving (?P<who>d\d)", Script.tell_leaving),
    (r"tell (?P<name>d\d) round of (?P<origin>d\d) about (?P<user>\w+)", Script.tell_round),
    (r"show users (?P<users>.+)", Script.show_users),
    (r"show stamps (?P<user>\w+)", Script.show_stamps),
    (r"show sessions (?P<users>.+)", Script.show_sessions),
    (r"show ring", Script.show_ring),
    (r"show hosts", Script.show_hosts),
    (r"show counters", Script.show_counters),
    (r"show kicks", Script.show_kicks),
    (r"show flush programs", Script.show_programs),
    (r"show messages", Script.show_messages),
    (r"show differences", Script.show_differences),
]


def recorded(text: str) -> str:
    """Return the script run again: its commands and comments, with the new outcome below each command.

    Raises:
        ValueError: a line is no command. The message names the line.
    """
    script, lines = Script(), []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(" "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            try:
                lines += [f"    {shown}" for shown in script.play(line)]
            except ValueError as exc:
                raise ValueError(f"line {number}: {exc}") from exc
    return "\n".join(lines) + "\n"
