"""Check which defects the simulator finds: `python -m tests.simulation.defects [--seeds 400]`.

Known defects are put into the core one at a time, and seeds are run until one of them fails. Prints a table
of how many seeds it took. A defect that no seed finds is named: the simulator lacks a check or a fault.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import msgspec

from director.core.gatekeeper import Gatekeeper
from director.core.intake import Intake
from director.core.logins.logins import Logins
from director.core.logins.pending import Pending
from director.core.moves import nearexpiry
from director.core.moves.kickrounds import KickRounds
from director.core.moves.kicks import Kicks
from director.core.moves.leaderwatch import LeaderWatch
from director.core.moves.moves import Moves
from director.core.moves.movestate import Stage
from director.core.moves.movingusers import MovingUsers
from director.core.moves.sessions import SessionReview
from director.core.placement import users
from director.core.placement.assign import Assigner
from director.core.protocol.effects import Effect, Send
from director.core.protocol.events import Leases
from director.core.protocol.messages import Leaving, Present, Token, Users
from director.core.ring.barrier import Barrier
from director.core.ring.partition import Partition
from director.core.ring.presence import Presence
from director.core.ring.ring import Ring
from director.core.ring.trust import Trust
from director.core.tables.hosts import HostTable, backend_of
from director.stored.bucketwriter import BucketWriter
from director.stored.procedures import Procedures
from director.stored.storecalls import Procedure, SwapBuckets
from director.stored.tabledocuments import Documents
from director.types import MemberId, Now
from director.wire import hotpath
from state.base import Lost, Space, Swap, Swapped, version_of
from state.bucketnumbers import root_of
from tests.simulation.schedule import drawn
from tests.simulation.simulate import WORKERS, outcome
from tests.simulation.store import Store

LIMIT = 400
"""The number of seeds after which a defect counts as not found."""


def _barrier_one_lap() -> Any:
    right = Barrier.pass_on

    def wrong(self: Barrier, token: Token, now: Now, digest: bytes) -> Token | None:
        passed = right(self, token, now, digest)
        if token.lap == 1 and passed is not None and token.origin != self.me:
            self.release(self.ring, now, digest)
        return passed

    return patch.object(Barrier, "pass_on", wrong)


def _digest_ignored() -> Any:
    return patch.object(HostTable, "digest", lambda self: b"always 8")


def _stamp_ignored() -> Any:
    def wrong(one: users.User, other: users.User) -> users.User:
        return min(one, other, key=lambda user: user.host)._replace(seen=max(one.seen, other.seen))

    return patch.object(users, "merged", wrong)


def _users_never_forwarded() -> Any:
    right = Intake.merge

    def wrong(self: Intake, *args: Any, **how: Any) -> list[Effect]:
        return [e for e in right(self, *args, **how) if not _is_users(e)]

    return patch.object(Intake, "merge", wrong)


def _users_forwarded_without_end() -> Any:
    right = Intake.merge

    def wrong(self: Intake, records: bytes, source: Any, *args: Any, **how: Any) -> list[Effect]:
        effects = [e for e in right(self, records, source, *args, **how) if not _is_users(e)]
        others = [n for n in self._ring.live_links() if n is not source]
        return effects + [Send(n.link, [Users(records)]) for n in others if source is not None]

    return patch.object(Intake, "merge", wrong)


def _is_users(effect: Effect) -> bool:
    return any(isinstance(message, Users) for message in getattr(effect, "messages", ()))


def _unverified_answered() -> Any:
    return patch.object(Trust, "review", lambda self, *args, **how: not setattr(self, "unverified", False))


def _no_kick_wait() -> Any:
    return (
        patch.object(MovingUsers, "is_kicking", lambda self, key: False),
        patch.multiple(Moves, _advance=_skipping(Moves._advance), _after_round=_no_delay),
    )


def _skipping(right: Callable[..., list[Effect]]) -> Callable[..., list[Effect]]:
    def wrong(self: Moves, led: Any, now: Now) -> list[Effect]:
        effects = right(self, led, now)
        if led.stage is Stage.KICKING:
            self._enter(led, Stage.ROUND, now.mono)
        return effects

    return wrong


def _no_delay(self: Moves, led: Any, now: Now, *, parted: bool) -> None:
    self._enter(led, Stage.DELAY, now.mono)
    self._soon(now.mono)


def _no_delay_only() -> Any:
    return patch.object(Moves, "_after_round", _no_delay)


def _no_kick_on_merge() -> Any:
    return patch.object(Kicks, "elsewhere", lambda self, old, new, now: None)


def _moves_end_without_round() -> Any:
    right = Moves._rounds

    def wrong(self: Moves, now: Now, view: Any) -> list[Effect]:
        for own in self._led.values():
            if own.stage is Stage.ROUND:
                own.job.unconfirmed.discard(own.key)
                self._enter(own, Stage.DELAY, now.mono + self.kick_delay)
        return right(self, now, view)

    return patch.object(Moves, "_rounds", wrong)


def _abandoned_moves_stay() -> Any:
    def abandoned(self: LeaderWatch, *args: Any) -> list[Any]:
        self._at = None
        return []

    return (
        patch.object(LeaderWatch, "abandoned", abandoned),
        patch.object(MovingUsers, "timed_out", lambda self, now: self._begun.clear() or []),
    )


def _near_expiry_holds_no_user() -> Any:
    return patch.object(Assigner, "hold", lambda self, key: None)


def _no_claims() -> Any:
    right = Partition.review

    def wrong(self: Partition, *args: Any) -> None:
        self.leases = None if self.leases is None else frozenset()
        right(self, *args)

    return patch.object(Partition, "review", wrong)


def _lost_rounds_not_repeated() -> Any:
    def turn(self: Moves, now: Now, view: Any) -> list[Effect]:
        effects = right(self, now, view)
        for own in self._led.values():
            if own.stage is Stage.ROUND:
                own.until = now.mono + 1e6
        return effects

    right = Moves.turn
    return patch.object(Moves, "turn", turn)


def _lost_kick_rounds_not_repeated() -> Any:
    right = KickRounds._advance

    def wrong(self: KickRounds, own: Any, now: Now, view: Any) -> list[Effect]:
        effects = right(self, own, now, view)
        if effects:
            own.repeat_at = now.mono + 1e6
        return effects

    return patch.multiple(KickRounds, _advance=wrong), patch("director.core.moves.kickrounds.LASTS", 1e6)


def _no_second_kick() -> Any:
    return patch.object(Kicks, "_kick_again", lambda self, record, now, awaited: None)


def _removed_continues() -> Any:
    right = Ring.set_servers

    def wrong(self: Ring, servers: Any, removed: Any = ()) -> list[Effect]:
        effects = right(self, servers, removed)
        self.removed = False
        return effects

    return patch.object(Ring, "set_servers", wrong)


def _leaves_at_once() -> Any:
    return patch.multiple(Ring, leave=lambda self, now: setattr(self, "_leaving_until", now.mono) or [])


def _summary_loses_one() -> Any:
    right = users.UserTable.missing

    def wrong(self: users.UserTable, *args: Any) -> bytes:
        return right(self, *args)[: -users.RECORD.size]

    return patch.object(users.UserTable, "missing", wrong)


def _store_last_writer_wins() -> Any:
    right, right_document = Store.swap, Store.swap_document

    def swap(self: Store, swap: Swap) -> Swapped | Lost:
        held = version_of(self.buckets[swap.space].get(swap.number, b""))
        return right(self, Swap(swap.space, swap.number, held, swap.blob))

    def swap_document(self: Store, name: str, version: bytes, data: bytes) -> Swapped | Lost:
        return right_document(self, name, version_of(self.documents.get(name, b"")), data)

    return patch.multiple(Store, swap=swap, swap_document=swap_document)


def _lapsed_lease_not_read() -> Any:
    def wrong(self: Procedures) -> Procedure[None]:
        if self.lease.has_lapsed and not self.director.loading:
            alive = yield from self.lease.renew()
            self.lease.caught_up(self.lease.lapses)
            self.tell(Leases(alive, self.lease.until))

    return patch.object(Procedures, "read_if_lapsed", wrong)


def _lapsed_lease_answers() -> Any:
    return patch.object(Trust, "lapsed", lambda self, now: None)


def _swapped_without_merge() -> Any:
    def wrong(self: BucketWriter, space: Space, swaps: Sequence[Swap]) -> Procedure[set[int]]:
        known, lost = self._reader.versions[space], set()
        for swap, result in zip(swaps, (yield SwapBuckets(swaps)) if swaps else [], strict=True):
            known[swap.number] = result.version
            if isinstance(result, Lost):
                lost.add(root_of(swap.number))
        return lost

    return patch.object(BucketWriter, "_swap_each", wrong)


def _documents_not_read_again() -> Any:
    right = Documents.read

    def wrong(self: Documents) -> Procedure[None]:
        if not self.were_read:
            yield from right(self)

    return patch.object(Documents, "read", wrong)


def _superseded_not_noticed() -> Any:
    return patch.object(Moves, "_in_force", lambda self, led: True)


def _sessions_not_reviewed() -> Any:
    return patch.object(SessionReview, "begin", lambda self, sessions: setattr(self._kicks, "blind", False))


def _waiting_not_woken() -> Any:
    return patch.object(Pending, "wake_users", lambda self, keys: None)


def _host_stamp_not_raised() -> Any:
    right = HostTable._with

    def wrong(row: Any, stamp: int, **what: Any) -> Any:
        return right(msgspec.structs.replace(row, weight_at=0, up_at=0), stamp, **what)

    return patch.object(HostTable, "_with", staticmethod(wrong))


def _retagged_answered() -> Any:
    return patch("director.core.tables.hosts.backend_of", lambda row: backend_of(row)._replace(retagged=0))


def _logins_never_refused() -> Any:
    return patch.object(Pending, "overdue", lambda self, now, most: iter(()))


def _gate_ignored() -> Any:
    right = Gatekeeper.review

    def wrong(self: Gatekeeper, now: Now) -> list[Effect]:
        effects = right(self, now)
        if self._assigner.gate == 1:
            self._assigner.gate = type(self._assigner.gate).OPEN
        return effects

    return patch.object(Gatekeeper, "review", wrong)


def _claim_not_binding() -> Any:
    return patch.object(Logins, "binds", lambda self, key, now: False)


def _hold_too_short() -> Any:
    return patch.object(nearexpiry, "HOLD", 0.0)


def _incarnations_are_times() -> Any:
    """The departure of a director counts as ended if it starts later by its own clock."""
    right = Presence.hear

    def departed(self: Presence) -> set[MemberId]:
        return {member for member, word in self._words.items() if word.leaves}

    def hear(self: Presence, message: Leaving | Present, source: Any, now: Now) -> list[Effect]:
        before = self._words.get(MemberId(message.member))
        if isinstance(message, Present) and before is not None and message.incarnation <= before.number:
            return []
        return right(self, message, source, now)

    return patch.multiple(Presence, departed=departed, hear=hear)


def _others_speak_for_a_member() -> Any:
    return patch.multiple(
        Presence,
        _linked=lambda self: set(),
        _hear_about_this_director=lambda self, number, leaves, source, now: [],
    )


DEFECTS: dict[str, Callable[[], Any]] = {
    "the barrier has one lap only": _barrier_one_lap,
    "the barrier's token does not carry the hosts": _digest_ignored,
    "new users are answered while the ring is out of sync": _gate_ignored,
    "the merge of users ignores the stamp": _stamp_ignored,
    "records are not passed on": _users_never_forwarded,
    "records are passed on without end": _users_forwarded_without_end,
    "memory is trusted before it is compared": _unverified_answered,
    "a move does not wait for its kicks": _no_kick_wait,
    "a move's user is free without the kick delay": _no_delay_only,
    "a merge that changes the host does not kick": _no_kick_on_merge,
    "a move ends without its round": _moves_end_without_round,
    "moves whose origin has crashed are left alone": _abandoned_moves_stay,
    "a superseded move reports success": _superseded_not_noticed,
    "a near-expiry promise holds no user": _near_expiry_holds_no_user,
    "a near-expiry promise ends at once": _hold_too_short,
    "no director claims in an incomplete ring": _no_claims,
    "a claim replaces the record in the store": _claim_not_binding,
    "a lost round of a move is not repeated": _lost_rounds_not_repeated,
    "a lost round of a kick is not repeated, and never ends": _lost_kick_rounds_not_repeated,
    "no user is kicked a second time": _no_second_kick,
    "a removed director continues": _removed_continues,
    "a director leaves the ring without a message": _leaves_at_once,
    "an exchange loses a record": _summary_loses_one,
    "the store keeps the last write": _store_last_writer_wins,
    "a lapsed lease is not read before writing": _lapsed_lease_not_read,
    "a director suspended beyond its lease answers at once": _lapsed_lease_answers,
    "a bucket is swapped without merging": _swapped_without_merge,
    "documents are not read again when the store is reachable again": _documents_not_read_again,
    "sessions are not reviewed after a start": _sessions_not_reviewed,
    "waiting logins of a user are not answered": _waiting_not_woken,
    "stamps of hosts do not grow": _host_stamp_not_raised,
    "users of a retagged host are answered": _retagged_answered,
    "logins wait without end": _logins_never_refused,
    "a departure ends by the clock only": _incarnations_are_times,
    "a departure counts whichever member reports it": _others_speak_for_a_member,
}


@contextmanager
def put_in(name: str) -> Iterator[None]:
    """Put a defect into the core while the block runs."""
    patches = DEFECTS[name]()
    patches = patches if isinstance(patches, tuple) else (patches,)
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


def found(name: str, limit: int, first: int = 0) -> tuple[int, str] | None:
    """Return how many seeds it takes to find a defect, and the violation; None: more than `limit`."""
    with put_in(name):
        for number in range(limit):
            result = outcome(drawn(first + number))
            if result.violation.startswith(("TypeError", "AttributeError")):
                raise RuntimeError(f"{name}: the core has changed: {result.violation}")
            if result.kind:
                return number + 1, f"{result.kind} ({result.family})"
    return None


def _found(job: tuple[str, int]) -> tuple[str, tuple[int, str] | None]:
    return job[0], found(*job)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=LIMIT)
    parser.add_argument("defects", nargs="*", metavar="DEFECT", help="these defects only")
    options = parser.parse_args()
    unknown = [name for name in options.defects if name not in DEFECTS]
    if unknown:
        parser.error(f"no such defect: {unknown[0]}")
    if hotpath.COMPILED:  # compiled code cannot be patched
        environment = os.environ | {"DIRECTOR_PURE_PYTHON": "1"}
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation.defects", *sys.argv[1:]], environment
        )
    names = options.defects or list(DEFECTS)
    missed = False
    print("| defect | seeds | what is seen |\n| --- | --- | --- |", flush=True)
    with get_context("fork").Pool(WORKERS, maxtasksperchild=1) as pool:
        for name, seen in pool.imap(_found, [(name, options.seeds) for name in names], chunksize=1):
            missed = missed or seen is None
            number, what = seen or (f"none of {options.seeds}", "nothing")
            print(f"| {name} | {number} | {what} |", flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
