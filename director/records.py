"""What the API speaks: one msgspec Struct a thing, shared by the service, the web API and the command line.

Times are Unix seconds. Keys are stable: add to them, never rename.
"""

from __future__ import annotations

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


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A director of the ring. One row for each connection with it, or one row where there is none."""

    address: str
    port: int
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


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """Without secrets."""
    shared: bool
    up: bool
    loaded: bool
    """Whether everything it held at the start is in memory."""
    loaded_users: int = 0
    queued_buckets: int = 0
    error: str | None = None


class StatusInfo(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    me: str
    started: int
    hosts: list[HostInfo]
    users: int
    ring: RingInfo
    store: StoreInfo


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator's change came to."""

    host: HostInfo | None
    """The host as all directors have it now; None after a removal."""
    stored: bool
    """False: every director has it, but the store was away; it is written when the store returns."""
    dry_run: bool = False


class NewHost(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /v1/hosts` (add, or set what is given of one that exists)."""

    address: str
    tag: str | None = None
    weight: int | None = None
    reason: str = ""
    dry_run: bool = False


class HostPatch(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `PATCH /v1/hosts/{address}`."""

    weight: int | None = None
    up: bool | None = None
    reason: str = ""
    dry_run: bool = False


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """The commands that rebuild hosts, tags, weights and down states."""

    commands: list[str]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457: why a request was not carried out."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"
    exit_code: int = 1
