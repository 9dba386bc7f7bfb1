"""Moves of users between hosts: no old session is left when the new host is used (docs/ring.md, rules 24-27).

The director that has begun a move, or has taken it over from a director that has left the ring, does
this:

    STORING --stored, or STORE_WAIT--> KICKING --own kick ended--> ROUND --token returns--> FLUSHING, or DELAY
    FLUSHING --its program has ended--> DELAY --kick_delay--> OVER (the user is assigned)
    any of them --superseded by a login--> STORING, --superseded by an operator, or MOVE_TIMEOUT--> OVER

If no director had a session to end, or the flush program has done its work, DELAY takes no time.

Every other director merges the MOVING record, kicks, lets the user's logins wait, and passes the token on
when its kick has ended. A record without MOVING releases the user. Everything that is lost on the way is
repeated. After MOVE_TIMEOUT every director releases the user by itself.
"""

from __future__ import annotations

from itertools import count

from director.core.logins.pending import Pending
from director.core.moves.flushruns import FlushRuns
from director.core.moves.heldtokens import HeldTokens
from director.core.moves.kicks import KICK_TIMEOUT, Kicks
from director.core.moves.leaderwatch import LeaderWatch
from director.core.moves.movestate import (
    ROUND,
    SUBJECT,
    TRANSITIONS,
    LedMove,
    Stage,
    UserJob,
    subjects,
)
from director.core.moves.movingusers import MOVE_TIMEOUT, MovingUsers
from director.core.moves.walk import Walk
from director.core.placement.assign import Assigner
from director.core.placement.users import (
    BUCKET_SHIFT,
    BY_HAND,
    BY_HAND_AHEAD,
    LATEST,
    MOVING,
    PINNED,
    RECORD,
    User,
)
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Effect, Level, LogEvent, Persist, Send
from director.core.protocol.messages import MoveRound
from director.core.protocol.ringtimings import NO_NEIGHBOUR, ROUND_AGAIN, STORE_WAIT
from director.core.protocol.transitions import check
from director.core.protocol.view import RingView
from director.core.tables.hosts import HostTable
from director.types import HostId, MemberId, Now, Stamp, UserKey

TIMED_OUT_NOTE = (
    "logins go to the new host, but sessions on the old host may continue; end them with"
    " `director kick --hash HASH`"
)
SHOWN = 10
"""Users that a log line about many users names."""
SLICE = 150
"""Moves of this director looked at in one turn of the loop."""
STORING_KEPT = 1000
"""Writes to the store that are waited for. If there are more, the moves of the oldest write wait for
`STORE_WAIT` instead."""
MOMENT = 0.001


class Moves:
    def __init__(
        self,
        me: MemberId,
        first_serial: int,
        hosts: HostTable,
        assigner: Assigner,
        kicks: Kicks,
        pending: Pending,
        counters: Counters,
        *,
        kick_delay: float,
        flush_program: bool,
    ) -> None:
        """Begin without moves.

        Args:
            first_serial: higher than every serial that an earlier run of this director may have used.
            assigner: with the user table.
            kicks: the kicks of this director.
            pending: the waiting logins.
            kick_delay: seconds, as `users.kick_delay`.
            flush_program: whether there is a flush program.
        """
        self.moving = MovingUsers(assigner.users)
        self._me, self._serials = me, count(first_serial + 1)
        self._hosts, self._assigner, self._users = hosts, assigner, assigner.users
        self._kicks, self._pending, self._counters = kicks, pending, counters
        self.kick_delay, self._flush_program = kick_delay, flush_program
        self._led: dict[UserKey, LedMove] = {}
        self._led_walk = Walk(self._led)
        self._looked: list[LedMove] = []
        """The moves that this turn of the loop looks at."""
        self._leader_watch = LeaderWatch(me, self.moving)
        self._timed_out: dict[str, list[int]] = {}
        """Hashes of users whose moves have timed out, by stage, for the log."""
        self._held_tokens = HeldTokens(me, self.moving)
        self._flush_runs = FlushRuns(self._serials, hosts, counters)
        self._to_store: list[LedMove] = []
        self._storing: dict[int, list[LedMove]] = {}
        self._login = UserJob(None)
        """The job of users who are moved because of a login, or whose moves were taken over."""
        self._at: float | None = None

    def __len__(self) -> int:
        """Return how many users are being moved by any director."""
        return len(self.moving.by_key)

    @property
    def led(self) -> int:
        """How many moves this director leads."""
        return len(self._led)

    def is_moving(self, key: UserKey) -> bool:
        """Whether a user is being moved, even if the merge that began it has not been handled yet."""
        user = self._users.get(key)
        return key in self.moving.by_key or (user is not None and bool(user.flags & MOVING))

    # ---- events

    def begin(
        self, key: UserKey, target: HostId, job: UserJob | None, now: Now, *, pin: bool = False
    ) -> None:
        """Begin to move a user.

        If the user is on the target already, the ring still has to agree: two operators may move the user to
        different hosts at once, and each gets the host that holds as the result.

        Args:
            key: of the user.
            target: the new host; 0: none, the assignment is deleted.
            job: the operation; None: a login.
            pin: whether the user is pinned to the target.
        """
        job = job or self._login
        old = self._users.get(key) or User(key, HostId(0), Stamp(0), 0, 0)
        flags = BY_HAND | (PINNED if pin else 0)
        known = self.moving.by_key.get(key)
        before = known.old if known is not None and old.flags & MOVING else old
        row = self._hosts.row(before.host)
        led = LedMove(
            key=key,
            target=target,
            flags=flags,
            decided=Stamp(0),
            job=job,
            began=now.mono,
            before=RECORD.pack(*before),
            old_row=row,
        )
        taken = self._led.pop(key, None)
        if taken is not None:
            self._end(taken)
            self._superseded(taken)
        self._led[key] = led
        job.under_way.add(key)
        job.unconfirmed.add(key)
        self._decide(led, now)

    def record_changed(self, old: User, now: Now) -> None:
        """Handle a change of a user's host or MOVING flag by a merge or by `begin`.

        Args:
            old: the user's former record.
        """
        new = self._users.get(old.key)
        if new is None:
            return
        kick = self._kicks.elsewhere(old, new, now)
        if self.moving.changed(old, new, kick, now):
            self._leader_watch.began(now)
        self._soon(now.mono)

    def token(self, token: MoveRound, now: Now, view: RingView) -> None:
        """Take a token from the left neighbour."""
        self._soon(now.mono)
        if token.origin == self._me:
            self._round_returned(token, now, view)
            return
        if self._me in token.passed:
            return
        self.moving.heard(token, now)
        self._held_tokens.hold(token, now)

    def stored(self, number: int, now: Now) -> None:
        """Continue the moves whose records are in the store now, as `Persist` asked."""
        for led in self._storing.pop(number, ()):
            if led.stage is Stage.STORING and led.number == number:
                led.until = now.mono
        self._soon(now.mono)

    def flush_ended(self, number: int, ok: bool, now: Now) -> None:
        """Continue a move whose flush program has ended.

        Args:
            number: of the run of the program.
            ok: whether the program says that nothing of the user is left on the old host.
        """
        led = self._flush_runs.ended(number, ok=ok)
        if led is None:
            return
        if not ok:
            led.job.counts.not_flushed += 1
        self._enter(led, Stage.DELAY, now.mono if ok else now.mono + self.kick_delay)
        self._soon(now.mono)

    def wake(self, now: Now) -> None:
        """Look at the moves soon: a kick has ended, or a host has changed."""
        if self.moving.by_key or self._held_tokens:
            self._soon(now.mono)

    # ---- time

    @property
    def has_work(self) -> bool:
        """Whether something is left for the next turn of the loop."""
        return (
            self.moving.has_overdue
            or self._flush_runs.has_work
            or self._led_walk.under_way
            or self._leader_watch.has_work
        )

    def next_deadline(self) -> float | None:
        deadlines = [self._at, self._leader_watch.next_deadline(), self.moving.next_deadline()]
        return min((at for at in deadlines if at is not None), default=None)

    def turn(self, now: Now, view: RingView) -> list[Effect]:
        """Continue all moves that can continue, some of them in each turn of the loop.

        Returns:
            The effects. The caller announces the records that this turn has written before it sends the
            tokens among the effects.
        """
        effects = self._time_out(now)
        self._take_over(now, view)
        due = self._at is not None and now.mono >= self._at
        if due:
            self._at = None
            self._led_walk.begin()
        if due or self._led_walk.under_way:
            effects += self._continue(now)
            effects += self._rounds(now, view)
            effects += self._held_tokens.pass_on(now, view)
            self._plan(now)
        return effects

    def _continue(self, now: Now) -> list[Effect]:
        """Continue the next moves that this director leads."""
        effects = self._persist()
        self._looked.clear()
        for key in self._led_walk.some(SLICE):
            led = self._led[key]
            effects += self._advance(led, now) if self._in_force(led) else self._overtaken(led, now)
            if led.stage is not Stage.OVER:
                self._looked.append(led)
        return effects

    def _decide(self, led: LedMove, now: Now) -> None:
        """Write the MOVING record of a move.

        Its stamp is later than that of the record it replaces, and than what other directors decide in the
        same moment.
        """
        key = led.key
        old = self._users.get(key) or led.old
        row = self._hosts.row(led.target)
        floor = max(row.present_at, row.tag_at) if row is not None else 0
        led.decided = Stamp(min(max(int(now.unix) + BY_HAND_AHEAD, old.decided + 1, floor), LATEST))
        new = User(key, led.target, led.decided, max(int(now.unix), old.seen), led.flags | MOVING)
        self._users.put(new)
        self.record_changed(old, now)
        self._enter(led, Stage.STORING, now.mono + STORE_WAIT)
        self._to_store.append(led)
        self._soon(now.mono)

    def _persist(self) -> list[Effect]:
        """Ask for the records that began in this turn to be stored, before their rounds begin."""
        if not self._to_store:
            return []
        number = next(self._serials)
        for led in self._to_store:
            led.number = number
        buckets = {led.key >> BUCKET_SHIFT for led in self._to_store}
        self._storing[number] = self._to_store
        if len(self._storing) > STORING_KEPT:
            del self._storing[next(iter(self._storing))]
        self._to_store = []
        return [Persist(number, tuple(sorted(buckets)))]

    def _in_force(self, led: LedMove) -> bool:
        """Whether the user's record is still the one of this move, and the target still takes the user."""
        record = self._users.get(led.key)
        if record is None or not self._has_put(led, record) or not record.flags & MOVING:
            return False
        return not self._has_lost_target(led)

    @staticmethod
    def _has_put(led: LedMove, record: User) -> bool:
        return (record.decided, record.host) == (led.decided, led.target)

    def _has_lost_target(self, led: LedMove) -> bool:
        """Whether the target was removed, or has come to another pool."""
        row = self._hosts.row(led.target) if led.target else None
        return led.target != 0 and (row is None or not row.present or row.tag_at > led.decided)

    def _overtaken(self, led: LedMove, now: Now) -> list[Effect]:
        """End or repeat a move that no longer holds."""
        record = self._users.get(led.key)
        if record is not None and self._has_put(led, record):
            if not record.flags & MOVING:
                return self._done(led)  # another director has released the user
            moved_record = self._hosts.moved_record(record)
            if moved_record is not None:  # the target has another address
                led.target = moved_record.host
            else:
                # The target was removed. The user waits until the old sessions have ended, and is then
                # assigned anew.
                led.target, led.flags, led.lost = HostId(0), BY_HAND, True
            return self._begin_again(led, now)
        if record is None or self._has_lost_target(led) or record.flags & BY_HAND:
            self._superseded(led)
            return self._over(led)
        # A login has superseded the move, by a clock that is ahead of this one (docs/ring.md, rule 25).
        return self._begin_again(led, now)

    def _begin_again(self, led: LedMove, now: Now) -> list[Effect]:
        effects = self._flush_runs.stop(led)
        self._decide(led, now)
        return effects + self._persist()

    def _advance(self, led: LedMove, now: Now) -> list[Effect]:
        if led.stage is Stage.STORING and now.mono >= led.until:
            self._enter(led, Stage.KICKING, now.mono + KICK_TIMEOUT)
        if led.stage is Stage.KICKING and not self.moving.is_kicking(led.key):
            self._enter(led, Stage.ROUND, now.mono)
        if led.stage is Stage.DELAY and now.mono >= led.until:
            self._release(led.key)
            return self._done(led)
        return []

    def _rounds(self, now: Now, view: RingView) -> list[Effect]:
        """Send the tokens of rounds, new and repeated: one token for all moves of a job that are ready."""
        due: dict[int, list[LedMove]] = {}
        for led in self._looked:
            if led.stage is Stage.ROUND and now.mono >= led.until:
                led.until = now.mono + (NO_NEIGHBOUR if view.right is None else ROUND_AGAIN)
                due.setdefault(id(led.job), []).append(led)
        effects: list[Effect] = []
        for batch in (led[at : at + ROUND] for led in due.values() for at in range(0, len(led), ROUND)):
            moves = b"".join(SUBJECT.pack(led.key, led.decided) for led in batch)
            is_late, kicked, parted = self.moving.kicks_of(moves)
            late: list[str] = [self._me] if is_late else []
            token = MoveRound(self._me, next(self._serials), moves, [self._me], late, kicked, parted)
            if view.right is not None:
                effects.append(Send(view.right, [token]))
            elif view.alone:
                self._round_returned(token, now, view)
                for led in batch:
                    effects += self._advance(led, now)
        return effects

    def _round_returned(self, token: MoveRound, now: Now, view: RingView) -> None:
        """Continue the moves of a round that every director in `passed` has confirmed.

        It does not count while a director has stopped answering only recently (rule 14).
        """
        if now.mono < view.held_until:
            return
        missing = set(view.listed) - {MemberId(m) for m in token.passed}
        jobs: dict[int, UserJob] = {}
        for key, decided in subjects(token.moves):
            led = self._led.get(key)
            if led is None or led.stage is not Stage.ROUND or led.decided != decided:
                continue
            jobs[id(led.job)] = led.job
            led.job.counts.add_not_reached(missing)
            led.job.counts.timed_out += bool(token.late)
            led.job.unconfirmed.discard(key)
            self._after_round(led, now, parted=token.parted or bool(token.kicked))
        for job in jobs.values():
            job.counts.kicked += token.kicked

    def _after_round(self, led: LedMove, now: Now, *, parted: bool) -> None:
        if self._flush_program and led.target and led.old.host not in (0, led.target):
            self._enter(led, Stage.FLUSHING, led.began + MOVE_TIMEOUT)
            self._flush_runs.add(led)
        else:
            waits = parted or led.old.host not in (0, led.target)
            pause = self.kick_delay if waits and not led.job.at_once else 0.0
            self._enter(led, Stage.DELAY, now.mono + pause)
        self._soon(now.mono)

    def start_programs(self) -> list[Effect]:
        """Return the flush programs to start for users whose rounds have ended."""
        return self._flush_runs.start()

    def _take_over(self, now: Now, view: RingView) -> None:
        """Take over moves that no director leads any more (docs/ring.md, rule 26).

        This director waits for its own kick first, as it does for its own moves.
        """
        for moving, record in self._leader_watch.abandoned(now, view, self._led):
            led = LedMove(
                key=moving.key,
                target=record.host,
                flags=record.flags & ~MOVING,
                decided=record.decided,
                job=self._login,
                began=moving.since,
                before=moving.before,
                old_row=self._hosts.row(moving.old.host),
                lost=False,
                stage=Stage.KICKING,
                until=now.mono + KICK_TIMEOUT,
            )
            self._led[led.key] = led
            self._soon(now.mono)

    def _time_out(self, now: Now) -> list[Effect]:
        """Release the users whose moves have timed out. Every director does so by itself."""
        effects: list[Effect] = []
        for moving in self.moving.timed_out(now):
            key = moving.key
            led = self._led.get(key)
            stage = led.stage.value if led is not None else "moving"
            self._release(key)
            self._counters.moves_timed_out += 1
            self._timed_out.setdefault(stage, []).append(key >> 32)
            if led is not None:
                if key in led.job.unconfirmed:
                    led.job.counts.timed_out += 1
                if led.stage is Stage.FLUSHING:
                    led.job.counts.not_flushed += 1
                effects += self._done(led)
        return effects if self.moving.has_overdue else effects + self._log_timed_out()

    def _log_timed_out(self) -> list[Effect]:
        """Return one log event for each stage, about all moves that timed out in successive turns."""
        timed_out, self._timed_out = self._timed_out, {}
        effects: list[Effect] = []
        for stage, hashes in timed_out.items():
            fields: dict[str, object] = {"hash": hashes[0], "state": stage, "seconds": int(MOVE_TIMEOUT)}
            if len(hashes) > 1:
                fields |= {"hash": hashes[:SHOWN], "users": len(hashes)}
            fields["note"] = TIMED_OUT_NOTE
            effects.append(LogEvent(Level.ERROR, "move_timed_out", fields))
        return effects

    # ---- results

    def _release(self, key: UserKey) -> None:
        record = self._users.get(key)
        self._pending.wake_users([key])
        if record is not None and record.flags & MOVING:
            self._users.put(record._replace(flags=record.flags & ~MOVING))
        self.moving.released(key)

    def _done(self, led: LedMove) -> list[Effect]:
        if led.lost:
            self._superseded(led)
        elif led.old.host == led.target and not led.flags & PINNED:
            led.job.counts.unchanged += 1
        else:
            led.job.counts.moved += 1
            self._counters.moves_done += 1
        return self._over(led)

    def _superseded(self, led: LedMove) -> None:
        led.job.counts.superseded += 1
        self._counters.moves_superseded += 1

    def _over(self, led: LedMove) -> list[Effect]:
        self._led.pop(led.key, None)
        self._end(led)
        return self._flush_runs.stop(led)

    def _end(self, led: LedMove) -> None:
        led.stage = Stage.OVER
        led.job.under_way.discard(led.key)
        led.job.unconfirmed.discard(led.key)

    def _enter(self, led: LedMove, stage: Stage, until: float) -> None:
        if led.stage is not stage:
            check(TRANSITIONS, led.stage, stage)
        led.stage, led.until = stage, until

    def _soon(self, at: float) -> None:
        self._at = at if self._at is None else min(self._at, at)

    def _plan(self, now: Now) -> None:
        """Set the time at which the next turn has something to do."""
        for led in self._looked:
            if led.stage in (Stage.STORING, Stage.ROUND, Stage.DELAY):
                self._soon(max(led.until, now.mono + (0.05 if led.stage is Stage.ROUND else 0.0)))
        until = self._held_tokens.next_deadline()
        if until is not None:
            self._soon(until)
        if self._at is not None:
            self._at = max(self._at, now.mono + MOMENT)  # the rest of this turn's work is for the next turn
