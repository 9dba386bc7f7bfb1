"""Checks of the running director: its ring, store and backends."""

from __future__ import annotations

from collections.abc import Iterator

from director.doctor.facts import Facts
from director.doctor.findings import FAULT, HINT, OK, UNSEEN, WARNING, Finding
from director.records import StatusInfo

OPEN_FILES = 4096
"""Descriptors that a busy proxy needs: each login process uses two, and there are many."""
NEARLY_ALL = 0.75
"""Part of the descriptors that may be open without a finding, 0 to 1."""
ALARMS = {
    "certificate": "directors cannot connect to each other after that",
    "secret": "with the ring's secret any program can act as a director, with the API token as an operator",
    "version": "new functions are not used until all directors have the new release",
    "backends": "each reload or restart of one of them may change the backends of the whole ring",
}
"""The effect of each kind of alarm."""
LAG, SKEW = 10.0, 1.0
"""Seconds: the tolerated age of a change that is not stored, and the tolerated difference of a clock."""


def check(facts: Facts) -> Iterator[Finding]:
    status = facts.status
    if facts.settings.ring_readable:
        yield _finding(
            HINT,
            "ring_tls",
            f"no ring.tls for the links with {', '.join(facts.settings.ring_readable)}",
            "machines on that network can read users and hosts, but change nothing",
            ('# see docs/operating.md, "TLS between the directors"',),
        )
    if status is None:
        level = UNSEEN if facts.running is not False or not facts.here else FAULT
        fix = ("systemctl start director", "journalctl -u director -n 50") if level == FAULT else ()
        yield _finding(
            level, "answers", facts.status_problem, "ring, store and backends were not checked", fix
        )
        return
    yield _finding(OK, "answers", f"{status.me}, {status.users} users")
    yield from _version(facts, status)
    yield from _ring(status)
    yield from _store(status)
    yield from _alarms(status)
    for member, seconds in sorted(facts.skew.items()):
        if abs(seconds) > SKEW:
            found = f"the clock of {member} is {abs(seconds):.1f} s {'ahead' if seconds > 0 else 'behind'}"
            why = "directors whose clocks differ by more than ring.max_clock_skew do not talk to each other"
            yield _finding(WARNING, "clock", found, why, ("timedatectl status      # on both",))
    yield from _kept_sockets(facts, status)
    yield from _kicks(facts)
    yield from _open_files(facts)
    yield from _backends(facts, status)


def _finding(
    level: str, check: str, found: str, why: str = "", fix: tuple[str, ...] = (), area: str = "director"
) -> Finding:
    return Finding(area=area, level=level, check=check, found=found, why=why, fix=fix)


def _alarms(status: StatusInfo) -> Iterator[Finding]:
    """The alarms of the director: certificates, secrets, differences between directors."""
    for alarm in status.alarms:
        why = ALARMS.get(alarm.kind, "directors with different values cannot be in one ring")
        yield _finding(WARNING, alarm.kind, alarm.text, why)
    if not status.alarms:
        yield _finding(OK, "alarms", "certificates, rights of secrets, and settings of the other directors")


def _open_files(facts: Facts) -> Iterator[Finding]:
    limit, used = facts.open_files, facts.used_files
    if not limit:
        return
    fix = ("[Service]                # systemctl edit director", "LimitNOFILE=65536")
    if used > NEARLY_ALL * limit:
        why = "without descriptors no login process can connect; see director_connections in /metrics"
        yield _finding(FAULT, "open_files", f"{used} of at most {limit} open files", why, fix)
    elif limit < OPEN_FILES:
        why = (
            f"the director needs {facts.needed_files}, and 2 for each login process; without descriptors no"
            " further login process can connect"
        )
        yield _finding(WARNING, "open_files", f"at most {limit} open files", why, fix)
    else:
        yield _finding(OK, "open_files", f"{used} of at most {limit} open files")


def _version(facts: Facts, status: StatusInfo) -> Iterator[Finding]:
    if status.version == facts.version:
        yield _finding(OK, "version", status.version)
        return
    found = f"{status.version} runs, {facts.version} is installed"
    yield _finding(
        WARNING, "version", found, "the installed release does not run yet", ("director reload --exec",)
    )


def _ring(status: StatusInfo) -> Iterator[Finding]:
    ring = status.ring
    if ring.removed:
        why = "an operator has removed it from the ring: it refuses logins"
        fix = (f"director ring add {ring.me}   # at another director",)
        yield _finding(FAULT, "ring", f"{ring.me} is removed", why, fix)
        return
    lost = [member for member in ring.missing if member not in ring.stopped]
    if lost:
        why = (
            "moves do not end sessions on their proxies; without a shared store, new users on the minority"
            " side wait"
        )
        lines = ("director ring status", "journalctl -u director     # there")
        yield _finding(WARNING, "ring", f"not in the ring: {', '.join(lost)}", why, lines)
    elif not ring.synced:
        why = "new users wait until the ring is in sync"
        yield _finding(WARNING, "ring", "not in sync", why, ("director ring status",))
    else:
        members = f"{len(ring.ring)} directors" if len(ring.ring) > 1 else "alone"
        yield _finding(OK, "ring", f"in sync, {members}")


def _store(status: StatusInfo) -> Iterator[Finding]:
    store = status.store
    if not store.up:
        why = "changes stay in memory until it is reachable; a restart before that loses assignments"
        found = f"{store.url}: unreachable{f' ({store.error})' if store.error else ''}"
        yield _finding(WARNING, "store", found, why, ("director state info",))
    elif store.lag > LAG:
        why = "a crash would lose the last changes of users"
        yield _finding(WARNING, "store", f"{store.url}: {store.lag:.0f} s behind", why)
    else:
        yield _finding(OK, "store", store.url)
    if store.url.startswith("memory:"):
        why = "after a restart users are assigned again, while old sessions may still run on other hosts"
        fix = ('state = "sqlite:////var/lib/director/state.db"   # director.toml',)
        yield _finding(WARNING, "memory", f"{store.url} keeps nothing", why, fix)
    if store.snapshot is not None and not store.snapshot.up:
        why = "a restart while the shared store is unreachable would begin without assignments"
        found = f"{store.snapshot.url}: {store.snapshot.error or 'cannot be written'}"
        yield _finding(WARNING, "snapshot", found, why)
    if len(status.ring.ring) + len(status.ring.missing) > 1 and not store.shared:
        why = "after a partition new users on the minority side wait: directors cannot claim their hosts"
        found = f"{store.url} is not shared by the directors"
        fix = ('state = "redis://HOST/0"   # director.toml, on all directors',)
        yield _finding(HINT, "shared_store", found, why, fix)


def _kept_sockets(facts: Facts, status: StatusInfo) -> Iterator[Finding]:
    """Whether the sockets to Dovecot outlive the director."""
    settings = facts.settings
    if not (settings.login or settings.userdb or settings.notify):
        return
    keeper = facts.keeper
    if status.sockets_kept_by == "systemd" or (status.sockets_kept_by and not facts.here):
        found = f"{status.sockets_kept_by} holds the sockets while no director runs"
        yield _finding(OK, "kept_sockets", found, area="sockets")
    elif status.sockets_kept_by and keeper is not None:
        kind = "`director keep`" if keeper.standalone else "keeper"
        found = f"{kind}, process {keeper.process}, holds {', '.join(keeper.listeners)} ({keeper.path})"
        yield _finding(OK, "kept_sockets", found, area="sockets")
    elif status.sockets_kept_by:
        found = "a keeper holds the sockets, but it cannot be asked from here"
        yield _finding(UNSEEN, "kept_sockets", found, "", ("sudo director doctor",), area="sockets")
    else:
        why = "when this director dies, login processes and all their sessions stall until it runs again"
        fix = (
            "journalctl -u director | grep keeper_failed",
            "director keep      # if the director has its own container",
        )
        yield _finding(WARNING, "kept_sockets", "nothing holds the sockets", why, fix, area="sockets")


def _kicks(facts: Facts) -> Iterator[Finding]:
    failed = sum(count for result, count in facts.kicks.items() if result != "done")
    if not failed:
        return
    why = "sessions of moved users may still run on the old host"
    found = f"{failed:.0f} of {sum(facts.kicks.values()):.0f} requests to end sessions failed since the start"
    fix = ("journalctl -u director | grep kick_failed",)
    yield _finding(WARNING, "kicks", found, why, fix, area="kicks")


def _backends(facts: Facts, status: StatusInfo) -> Iterator[Finding]:
    known = {backend.address: backend for backend in facts.backends}
    usable = [host for host in status.hosts if host.up and host.weight]
    pools = {host.tag for host in status.hosts} or {""}
    for tag in sorted(pools - {host.tag for host in usable}):
        why = "its new users wait 30 s and fail temporarily"
        fix = ("director status", "director up HOST")
        found = f"{f'pool {tag}' if tag else 'the pool without a tag'}: no host is up with a weight over 0"
        yield _finding(FAULT, "hosts", found, why, fix, area="backends")
    for host in usable:
        backend = known.get(host.address)
        if backend is None:
            continue
        if not backend.open:
            why = "users assigned to it cannot log in"
            found = f"{host.address}: no listener on Dovecot's usual ports"
            yield _finding(
                WARNING, "reachable", found, why, (f"director down {host.address}",), area="backends"
            )
        else:
            yield _finding(OK, "reachable", f"{host.address}: {', '.join(backend.open)}", area="backends")
        if backend.local:
            why = "Dovecot refuses to proxy to itself, as a loop: see director_proxy_maybe"
            found = f"{host.address} is an address of this machine"
            yield _finding(HINT, "own_address", found, why, area="backends")


def answer(user: str, line: str) -> Iterator[Finding]:
    """The findings about the look-up of a user.

    Args:
        line: the director's answer, or the reason why there is none.
    """
    word, *fields = line.split("\t")
    given = dict(field.partition("=")[::2] for field in fields)
    if word == "PASS" and "host" in given:
        yield _finding(OK, "lookup", f"{user} goes to {given['host']}")
        why = "without it moves do not end this user's sessions: the host came from the passdb"
        if "user_dirkey" not in given:
            yield _finding(WARNING, "lookup", f"{user}: host={given['host']}, no user_dirkey", why)
    elif word == "PASS":
        why = "the passdb returns no proxy for this user: the proxy itself serves the user"
        yield _finding(WARNING, "lookup", f"{user} gets no host", why)
    elif word == "NOTFOUND":
        why = "the passdb does not have this user, or needs a password to answer"
        yield _finding(WARNING, "lookup", f"{user} is not found", why)
    elif word == "FAIL":
        why = "auth refuses look-ups of this director, or its passdb fails; see Dovecot's log"
        yield _finding(FAULT, "lookup", f"{user}: the look-up failed", why)
    else:
        yield _finding(FAULT, "lookup", line, "lmtp and doveadm get no answer either")
