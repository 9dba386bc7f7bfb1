"""Records of the API, a msgspec Struct each, shared by the service, the web API and the command line.

Times are Unix seconds. Keys are stable: add keys, never rename one.
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
    """When the state (up or down) last changed; 0: never."""
    users: int = 0
    """Assignments that have not expired (not sessions)."""
    leaving: int = 0
    """Users that any director is moving away from the host now."""
    configured: bool = True
    """Whether the configuration file of the director that answers lists it."""


class UserInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment as `director map` and USER-LIST show it."""

    hash: int
    key: str
    """The 64-bit key, 16 hex digits."""
    host: str
    expires: int
    name: str | None = None
    pinned: bool = False
    """The assignment does not expire; `expires` has no meaning."""


class UserStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The host of a user, and the host that the hash selects: USER-LOOKUP of Dovecot 2.3's director."""

    user: str
    tag: str = ""
    hash: int
    current: str | None = None
    expires: int | None = None
    hashed: str | None = None
    """The host that the hash selects now."""
    configured: str | None = None
    """The host that the hash would select with the hosts of the configuration file."""
    pinned: bool = False
    """The assignment to `current` does not expire; `expires` has no meaning."""


class LookupAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The host of a user: the passdb fields that a login process would get."""

    address: str
    """Address of the host."""
    host: str
    """Name of the host, if the configuration has one, else the address."""
    hostip: str | None = None
    """Address of the host, if `host` is a name."""
    proxy_refresh: int
    """Seconds between two refreshes of a session (proxy-notify)."""
    user_dirkey: str
    """`HASH@ADDRESS`, the field by which the director finds sessions to end."""


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A director of the ring. Each connection with it has a record; without a connection there is one."""

    address: str
    port: int
    name: str | None = None
    """The name in the list of ring members; None: it is listed by its address."""
    kind: str = ""
    """`self`, `left`, `right`, `in`, `out` or empty."""
    last_failed: int = 0
    status: str = ""
    sync_ms: int | None = None
    """Milliseconds: of the last sync for `self`, of the last ping for a connection."""
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
    """Ring members that are not in the ring now."""
    waiting_logins: int
    members: list[MemberInfo]
    stopped: list[str] = []
    """Missing directors that were stopped, and announced it."""
    removed: bool = False
    """Whether an operator has removed the director that answers from the ring: it refuses logins."""
    moves_in_progress: int = 0
    """Users that any director is moving now."""
    waiting_for: dict[str, int] = {}
    """Logins that wait at the director that answers, by reason: `ring`, `majority`, `host`, `move`, `tag`,
    `address`, `store`, `memory` or `expiry`."""
    stored: bool = True
    """In the answer to a change: False if the store does not hold it yet; see `StoreInfo.unstored`."""


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The snapshot on this machine."""

    url: str
    up: bool
    queued_buckets: int
    """Buckets of users and names that are not written yet."""
    written: int | None
    """Unix seconds, to the minute; None: never."""
    error: str | None


class UnstoredChange(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's change that the directors have and the store does not hold yet."""

    what: str
    """`move`, `pin`, `unpin`, `flush`, …, as in the audit."""
    target: str
    """The user, host or director that was changed, or `all`."""
    since: int
    """Unix seconds."""


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """Without secrets."""
    shared: bool
    up: bool
    loaded: bool
    """Whether the content of the store at the start has been read completely."""
    loaded_part: float = 1.0
    """The part of it that has been read, 0 to 1."""
    loaded_users: int = 0
    queued_buckets: int = 0
    lag: float = 0.0
    """Seconds since the oldest change of a user that is not known to be stored."""
    error: str | None = None
    unstored: list[UnstoredChange] = []
    """Changes of operators that are not stored yet, the oldest first."""
    snapshot: SnapshotInfo | None = None
    """None: there is no snapshot."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that an operator should repair. Logins are answered meanwhile."""

    kind: str
    """`certificate`: it ends soon; `secret`: every user can read it; `unusable`: a restart would fail with
    the file; `changed`: the file is not applied yet; `reload`: the last reload failed; `version`,
    `backends`, `users.expire`, `users.username_hash`: another director has a different value."""
    about: str
    """The file, the director, or the command."""
    text: str
    """The condition, and what to do."""


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
    """The program that holds the login and userdb sockets and the FIFO while this director does not run:
    `systemd` or `keeper`; empty: there is none."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an operator's change of a host."""

    host: HostInfo | None
    """The host as all directors have it now; None after a removal."""
    stored: bool
    """False: all directors have the change, but the store does not hold it yet; see `StoreInfo.unstored`."""
    dry_run: bool = False
    users: UsersChange | None = None
    """Change of a tag: the moves of the host's users. Dry run of a removal: what it would do to its users."""
    warning: str = ""
    """An effect of the change that may be unwanted."""
    without_host: bool = False
    """Dry run of a removal: no other usable host could take the users."""
    unpinned: int = 0
    """Removal: users who lose their pins on the host."""


class MoveCounts(msgspec.Struct, kw_only=True):
    """The result of a move, flush, kick or pin, on all directors together."""

    moved: int = 0
    """Users who are on another host now; `flush -F`: users whose assignments were removed."""
    unchanged: int = 0
    """Users who were on the right host already."""
    superseded: int = 0
    """Users who were moved elsewhere by another operator."""
    pinned: int = 0
    """Pinned users, which a flush does not move."""
    unpinned: int = 0
    """Users who lose their pin: by `flush -F`, or because their host has another tag."""
    kicked: int = 0
    """Sessions ended."""
    timed_out: int = 0
    """Users whose old sessions may still run: no confirmation came in time."""
    not_flushed: int = 0
    """Users whose flush program failed or did not end; their logins waited for the kick delay instead."""
    not_reached: list[str] = []
    """Directors that did not confirm; sessions on their proxies end when these directors are reachable."""
    not_counted: list[str] = []
    """Dry run of a kick: directors that did not count their sessions. They are unreachable, have no kick
    channel, or have an older release."""

    def add_not_reached(self, members: Iterable[str]) -> None:
        self.not_reached = sorted({*self.not_reached, *members})


class UsersChange(MoveCounts, kw_only=True):
    """The result of a change of users, as the API returns it."""

    kicked: int | None = 0  # type: ignore[assignment]
    """Sessions ended. None: not known in a dry run."""
    timed_out: int | None = 0  # type: ignore[assignment]
    """Users whose old sessions may still run: no confirmation came in time. None: not known in a dry run."""
    stored: bool = True
    """False: all directors have the change, but the store does not hold it yet; see `StoreInfo.unstored`."""
    dry_run: bool = False
    host: str | None = None
    """The user's host after a move or pin."""
    known: bool = True
    """Kick: False if the user is not assigned and no session was found."""
    counted: int | None = None
    """Dry run of a kick: number of sessions at the directors that counted them."""


class MoveInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A change of users that runs, or has ended recently."""

    id: str
    kind: str
    """`move`, `pin`, `flush`, `forget`, `rebalance` or `tag`."""
    target: str
    """The user or host that is changed, or `all`."""
    started: int
    ended: int | None = None
    total: int | None = None
    """Number of users to change; None until they are counted."""
    moved: int = 0
    in_progress: int = 0
    timed_out: int = 0
    kicked: int = 0
    result: UsersChange | None = None
    """None until the change has ended or was interrupted."""
    problem: Problem | None = None
    """Why the change ended without a result."""
    joined: bool = False
    """Whether another operator had started the same change before."""
    change: Change | None = None
    """In the answer to a change of a tag: the host with its new tag."""


class ChangeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that the body of every request for a change has."""

    reason: str = ""
    """The operator's words, kept in the audit."""
    dry_run: bool = False
    """Change nothing, and answer what the change would do."""


class NewHost(ChangeRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts`: add a host, or set the given values of a host that exists."""

    address: str
    tag: str | None = None
    """None: not given. For a host that exists it must be the present tag, which may be empty."""
    weight: int | None = None
    force: bool = False
    """Set weight 0 even if the pool has no other usable host."""


class HostPatch(ChangeRequest, frozen=True, kw_only=True):
    """Body of `PATCH /v1/hosts/{address}`."""

    weight: int | None = None
    up: bool | None = None
    tag: str | None = None
    force: bool = False
    """Set weight 0 or another tag even if the pool has no other usable host."""


class NewMove(ChangeRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/moves`."""

    user: str
    host: str
    tag: str = ""
    """Tag of the user, which must be the tag of the host."""
    numeric: Literal["hash", "name"] = "hash"
    """How to read a `user` of digits only."""
    pin: bool = False
    new: bool = True
    """Whether an unassigned user is assigned; False: the answer is 404."""


class NewFlush(ChangeRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/flushes`: move users to the hosts that the hash selects."""

    host: str | None
    """The host of the users; None: all hosts. There is no default, so that all are not flushed by mistake."""
    forget: bool = False
    """Remove the assignments and pins instead of moving the users; their sessions end."""
    rebalance: bool = False
    """Move only users who are not on the host that the hash selects. `host` must be None."""
    tag: str | None = None
    """Move only users with this tag. `host` must be None."""
    max_parallel: int | None = None
    """Users to move at a time; None: users.max_parallel_moves."""
    force: bool = False
    """Move users even if the pool has no other usable host."""


class NewKick(ChangeRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/kicks`: end sessions. Give exactly one of `user`, `field` with `value`, `hash`."""

    user: str | None = None
    numeric: Literal["hash", "name"] = "hash"
    """How to read a `user` of digits only."""
    field: str | None = None
    """A field of the passdb, whose value must be `value`."""
    value: str | None = None
    hash: int | None = None


class NewMember(ChangeRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/ring/members`."""

    address: str
    """IP address or name, or ADDRESS:PORT or NAME:PORT. A name is stored: its address may change later."""
    port: int | None = None
    """Port, if `address` has none; None: the port of the director that answers."""


class ConfiguredHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host in a configuration file."""

    address: str
    hostname: str = ""
    tag: str = ""
    weight: int


class NewPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/plan`: the hosts of a configuration file."""

    hosts: list[ConfiguredHost]
    unresolved: list[ConfiguredHost] = []
    """Hosts whose names cannot be resolved now; `address` is empty."""


class PlannedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A difference between a configuration file and the present hosts."""

    address: str
    what: Literal["host", "weight", "tag", "address"]
    """`address`: the name of the host has another address."""
    now: str
    """The present value; for `host`, `there` or empty."""
    file: str
    """The value in the file; for `host`, its weight and tag, or empty if the file does not list it."""
    outcome: Literal["made", "kept", "stays"]
    """`made`: the value of the file is applied. `kept`: the file has changed, but an operator has changed the
    value since. `stays`: the file has not changed; the value was changed at run time."""
    decided: int = 0
    """When the present value was decided; 0: by a configuration file."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The changes that a start of this director with a configuration file would make in the cluster."""

    me: str
    known: bool
    """Whether the configuration that this director last applied is known. If not, the file decides everything
    that no operator has changed."""
    changes: list[PlannedChange]
    warnings: list[str] = []
    """Effects of the changes that may be unwanted."""


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """The commands that rebuild hosts, tags, weights, down states and pins."""

    commands: list[str]
    """A command each. A text that begins with # is a comment about something that cannot be rebuilt."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457: why a request was not carried out."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"
    exit_code: int = 1


class NewReload(ChangeRequest, frozen=True, kw_only=True):
    """Body of `POST /v1/reload`: read the configuration file again, or replace the program (`exec`)."""

    exec: bool = False


class ReloadInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the last reload or replacement of the program."""

    state: str
    """`never`, `under_way`, `done` or `failed`."""
    exec: bool = False
    """Whether it was a replacement of the program."""
    version: str
    """Version of the running program."""
    before: str | None = None
    """Version of its predecessor."""
    number: int = 0
    """Number of replacements in this process."""
    seconds: float | None = None
    """Duration of the replacement, from the command until logins were answered again."""
    paused: float | None = None
    """Seconds of the replacement in which no login was answered."""
    problem: str = ""
    """Why it failed. Then nothing has changed."""
    applied: list[str] = []
    """Settings that were changed at run time."""
    needs_exec: list[str] = []
    """Settings that differ in the file and apply after the next replacement or start."""
    warnings: list[str] = []
    """Effects of changed backends that may be unwanted."""
