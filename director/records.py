"""What the API speaks: one msgspec Struct a thing, shared by the service, the web API and the command line.

Times are Unix seconds. Keys are stable: add to them, never rename.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A backend host as `director status` and HOST-LIST show it."""

    address: str
    hostname: str | None = None
    tag: str = ""
    weight: int
    """Number of vhosts, 0 to 1000."""
    up: bool
    changed: int = 0
    """When up/down last changed; 0 = never."""
    users: int = 0
    """Assignments that have not expired (not sessions)."""
    leaving: int = 0
    """Users who are being moved away from it now, by whichever director."""
    configured: bool = True
    """Whether the configuration file of the asked director lists it."""


class UserInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment as `director map` and USER-LIST show it."""

    hash: int
    key: str
    """The 64-bit key, 16 hex digits."""
    host: str
    expires: int
    name: str | None = None
    pinned: bool = False
    """The user stays on `host` for good; `expires` does not count."""


class UserStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where one user is and would be: the original's USER-LOOKUP."""

    user: str
    tag: str = ""
    hash: int
    current: str | None = None
    expires: int | None = None
    hashed: str | None = None
    """Where the vhost circle puts the user now."""
    configured: str | None = None
    """Where the circle of the configuration file alone would put the user."""
    pinned: bool = False
    """The user stays on `current` for good; `expires` does not count."""


class LookupAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a user's connection is to go: the passdb fields that a login process would get."""

    address: str
    """Of the backend."""
    host: str
    """Its name, if the configuration has one, else its address."""
    hostip: str | None = None
    """Its address, where `host` is a name."""
    proxy_refresh: int
    """Seconds between two signs of life of a session (proxy-notify)."""
    user_dirkey: str
    """`HASH@ADDRESS`; by it the director ends sessions."""


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A director of the ring. One row for each connection with it, or one row where there is none."""

    address: str
    port: int
    name: str | None = None
    """By which it is listed, if it is."""
    kind: str = ""
    """`self`, `left`, `right`, `in`, `out` or empty."""
    last_failed: int = 0
    status: str = ""
    sync_ms: int | None = None
    """self: how long the last sync took; a connection: the last ping."""
    bytes_in: int | None = None
    bytes_out: int | None = None
    buffered: int | None = None
    buffered_peak: int | None = None
    last_read: int | None = None
    last_write: int | None = None


class RingInfo(msgspec.Struct, frozen=True, kw_only=True):
    me: str
    synced: bool
    ring: list[str]
    """The members of the last completed sync, in ring order."""
    missing: list[str]
    """Listed directors that are not in it."""
    waiting_logins: int
    members: list[MemberInfo]
    stopped: list[str] = []
    """Of the missing, those that have said good-bye: they were stopped, not lost."""
    removed: bool = False
    """Whether an operator has taken the asked director out of the ring: it refuses logins."""
    moves_in_progress: int = 0
    """Users being moved now, by whichever director."""
    waiting_for: dict[str, int] = {}
    """What the waiting logins of the asked director wait for, and how many of them each: `ring`, `majority`,
    `host`, `move`, `tag`, `address`, `store`, `memory` or `expiry`."""
    stored: bool = True
    """False, in the answer to a change: the store does not hold it yet; see `StoreInfo.unstored`."""


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The copy that is kept on this machine."""

    url: str
    up: bool
    queued_buckets: int
    """Buckets of users and names that differ from memory."""
    written: int | None
    """Unix seconds, to the minute; None: never."""
    error: str | None


class UnstoredChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an operator that the directors have and the store does not hold yet."""

    what: str
    """`move`, `pin`, `unpin`, `flush`, …, as in the audit."""
    target: str
    """The user, host or director that it is about, or `all`."""
    since: int
    """Unix seconds."""


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """Without secrets."""
    shared: bool
    up: bool
    loaded: bool
    """Whether everything it held at the start is in memory."""
    loaded_part: float = 1.0
    """How much of it is, 0 to 1."""
    loaded_users: int = 0
    queued_buckets: int = 0
    lag: float = 0.0
    """Seconds since the oldest change of a user that is not known to be stored."""
    error: str | None = None
    unstored: list[UnstoredChange] = []
    """The oldest first; each leaves the list when it is stored."""
    snapshot: SnapshotInfo | None = None
    """None: none is kept."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something that an operator should put right, though logins are answered."""

    kind: str
    """`certificate`: it ends soon; `secret`: every user can read it; `unusable`: a restart would fail with
    the file; `changed`: the file is not in force yet; `reload`: the last one failed; `version`,
    `backends`, `users.expire`, `users.username_hash`: a director differs from this one in that."""
    about: str
    """The file, the director, or the command."""
    text: str
    """What it is, and what to do."""


class StatusInfo(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    me: str
    started: int
    hosts: list[HostInfo]
    users: int
    ring: RingInfo
    store: StoreInfo
    alarms: list[Alarm] = []
    sockets_kept_by: str = ""
    """What holds the login and userdb sockets and the FIFO while this director does not run: `systemd`,
    `keeper`, or, empty, nothing does."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator's change came to."""

    host: HostInfo | None
    """The host as all directors have it now; None after a removal."""
    stored: bool
    """False: every director has it, but the store does not hold it yet; see `StoreInfo.unstored`."""
    dry_run: bool = False
    users: UsersChange | None = None
    """A new tag: what became of the users of the old one. Dry run of a removal: what would become of those of
    the host."""
    warning: str = ""
    """What the change leads to that may not be wanted."""
    without_host: bool = False
    """Dry run of a removal: no usable host is left for its users."""
    unpinned: int = 0
    """A removal: users who lose the pin that they had on the host."""


class MoveCounts(msgspec.Struct, kw_only=True):
    """What a move, flush, kick or pin came to, on all directors together."""

    moved: int = 0
    """Users who are on another host now; `flush -F`: users who are forgotten."""
    unchanged: int = 0
    """Users who were where they should be."""
    superseded: int = 0
    """Users for whom the move of another operator won."""
    pinned: int = 0
    """Users whom a flush left where they are pinned."""
    unpinned: int = 0
    """Users who lose their pin: by `flush -F`, or because their host has another tag."""
    kicked: int = 0
    """Sessions ended."""
    timed_out: int = 0
    """Users whose old sessions were not confirmed to be gone in time."""
    not_flushed: int = 0
    """Users whose flush program failed or did not end; the kick delay was waited for instead."""
    not_reached: list[str] = []
    """Directors that did not confirm; the sessions they proxy end when they are back."""
    not_counted: list[str] = []
    """Where sessions are only counted: directors that have not counted theirs. They are out of reach, have no
    kick channel, or are of an older release."""

    def add_not_reached(self, members: Iterable[str]) -> None:
        self.not_reached = sorted({*self.not_reached, *members})


class UsersChange(MoveCounts, kw_only=True):
    """The counts of a change of users as the API tells them, in one object with what else it tells."""

    kicked: int | None = 0  # type: ignore[assignment]
    """Sessions ended. None: a dry run does not know."""
    timed_out: int | None = 0  # type: ignore[assignment]
    """Users whose old sessions were not confirmed to be gone in time. None: a dry run does not know."""
    stored: bool = True
    """False: every director has it, but the store does not hold it yet; see `StoreInfo.unstored`."""
    dry_run: bool = False
    host: str | None = None
    """Where the user is now, after a move or pin."""
    known: bool = True
    """False, of a kick: no such user is assigned, and no session was found."""
    counted: int | None = None
    """Dry run of a kick: sessions at the directors that have counted them."""


class MoveInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A change of users that is under way, or ended lately."""

    id: str
    kind: str
    """`move`, `pin`, `flush`, `forget`, `rebalance` or `tag`."""
    target: str
    """The user or host it is about, or `all`."""
    started: int
    ended: int | None = None
    total: int | None = None
    """Users to look after; None until they are counted."""
    moved: int = 0
    in_progress: int = 0
    timed_out: int = 0
    kicked: int = 0
    result: UsersChange | None = None
    """Once it has ended; also where it was interrupted."""
    problem: Problem | None = None
    """Why it ended without a result."""
    joined: bool = False
    """It was under way already when it was asked for: another operator has begun it."""
    change: Change | None = None
    """Where it was asked for: what became of the host that was given another tag."""


class NewHost(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts` (add, or set what is given of one that exists)."""

    address: str
    tag: str | None = None
    """None: not given. Of a host that exists it must be the tag it has, also where it is empty."""
    weight: int | None = None
    reason: str = ""
    dry_run: bool = False
    force: bool = False
    """Weight 0 also where users are left without a host."""


class HostPatch(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `PATCH /v1/hosts/{address}`."""

    weight: int | None = None
    up: bool | None = None
    tag: str | None = None
    reason: str = ""
    dry_run: bool = False
    force: bool = False
    """Weight 0 or another tag also where users are left without a host."""


class NewMove(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/moves`."""

    user: str
    host: str
    tag: str = ""
    """Of the user; it must be that of the host."""
    numeric: Literal["hash", "name"] = "hash"
    """What a `user` of digits only is."""
    pin: bool = False
    new: bool = True
    """Whether it may be a user that nobody has seen; False: that is answered 404."""
    reason: str = ""
    dry_run: bool = False


class NewFlush(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/flushes`: have users placed anew."""

    host: str | None
    """Whose users; None: those of all hosts. There is no default, so that nobody flushes all by mistake."""
    forget: bool = False
    """Forget the users, pinned ones too, instead of moving them; their sessions end."""
    rebalance: bool = False
    """Move only users who are not where the hash puts them; all hosts."""
    tag: str | None = None
    """Only users with this tag; all hosts."""
    max_parallel: int | None = None
    """Users on the move at a time; None: as configured."""
    reason: str = ""
    dry_run: bool = False
    force: bool = False
    """Also where users are left without a host."""


class NewKick(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/kicks`: whose sessions to end, said in exactly one way."""

    user: str | None = None
    numeric: Literal["hash", "name"] = "hash"
    """What a `user` of digits only is."""
    field: str | None = None
    """A field of the passdb, with `value`."""
    value: str | None = None
    hash: int | None = None
    reason: str = ""
    dry_run: bool = False


class NewMember(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/ring/members`."""

    address: str
    """IP address or name, or ADDRESS:PORT or NAME:PORT. A name is kept: its address may change."""
    port: int | None = None
    """None, and none in `address`: the port of the director that is asked."""
    reason: str = ""
    dry_run: bool = False


class ConfiguredHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host as a configuration file has it."""

    address: str
    hostname: str = ""
    tag: str = ""
    weight: int


class NewPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/plan`: the hosts of a configuration file."""

    hosts: list[ConfiguredHost]
    unresolved: list[ConfiguredHost] = []
    """Names in it that have no address now; `address` is empty."""


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in which a configuration file and the hosts differ."""

    address: str
    what: Literal["host", "weight", "tag", "address"]
    """`address`: the name of the host has another one."""
    now: str
    """What holds now; of a host `there`, or empty where it is not."""
    file: str
    """What the file says; of a host its weight and tag, or empty where it is not listed."""
    outcome: Literal["made", "kept", "stays"]
    """`made`: it becomes as the file says. `kept`: the file has changed it, but so has an operator since.
    `stays`: the file says what it said before; it was changed at run time."""
    decided: int = 0
    """When what holds now was decided; 0: by a configuration file."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a start of this director with a configuration file would change in the cluster."""

    me: str
    known: bool
    """Whether it is known what this director last applied; if not, the file decides over what no operator
    did."""
    changes: list[PlannedChange]
    warnings: list[str] = []
    """What the changes lead to that may not be wanted."""


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """The commands that rebuild hosts, tags, weights, down states and pins."""

    commands: list[str]
    """A line that starts with # is no command: it says what no command can rebuild."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457: why a request was not carried out."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"
    exit_code: int = 1


class NewReload(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done: read the configuration file again, or have the program replaced in place."""

    exec: bool = False
    reason: str = ""
    dry_run: bool = False


class ReloadInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the last reload or replacement of the program."""

    state: str
    """never, under_way, done or failed."""
    exec: bool = False
    """Whether the program was to be replaced."""
    version: str
    """Of the program that runs."""
    before: str | None = None
    """Of the program that was replaced."""
    number: int = 0
    """How often the program of this process has been replaced."""
    seconds: float | None = None
    """What it took, from the command until logins were answered again."""
    paused: float | None = None
    """Of these, seconds in which nobody was answered."""
    problem: str = ""
    """Why it failed. All is as before then."""
    applied: list[str] = []
    """Settings that were changed live."""
    needs_exec: list[str] = []
    """Settings that have changed in the file and count from the next replacement or start on."""
    warnings: list[str] = []
    """What changed backends lead to that may not be wanted."""
