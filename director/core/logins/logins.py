"""Logins that the hot path could not answer: they wait, are claimed in the store, are answered or refused."""

from __future__ import annotations

from collections.abc import Iterable

from director.core.logins.pending import PENDING_TIMEOUT, WAITING_LIMIT, Pending, WaitingLogin
from director.core.placement.assign import Assigner, Backend, Wait
from director.core.placement.users import MOVING, PINNED, User, is_alive, pack
from director.core.protocol.counters import Counters
from director.core.protocol.effects import Answer, Claim, Effect, Refuse
from director.core.protocol.events import Lookup
from director.core.ring.partition import CLAIM_AFTER
from director.core.tables.hosts import HostTable
from director.core.tables.movedhosts import MovedHosts
from director.types import Now, Stamp, UserKey

SLICE = 200
"""Waiting logins tried again, or refused, in one turn of the loop."""
CLAIM_AGAIN = 0.5
"""Seconds after which a claim that settled nothing is made again."""
REMOVED = "this director was removed from the ring"
FULL = f"{WAITING_LIMIT} logins wait already"


class Logins:
    """Answers come back as effects. Whatever they put into the user table is the caller's to announce
    first."""

    def __init__(
        self,
        assigner: Assigner,
        hosts: HostTable,
        pending: Pending,
        moved_hosts: MovedHosts,
        counters: Counters,
    ) -> None:
        self.claiming = False
        """New users are settled in the shared store (docs/ring.md, rule 12)."""
        self._assigner, self._users = assigner, assigner.users
        self._hosts, self._pending, self._moved_hosts = hosts, pending, moved_hosts
        self._counters = counters
        self.removed = False
        """An operator has taken this director out of the ring: it answers nobody."""
        self.near: dict[UserKey, bytes] = {}
        """Users (and their tags) that the ring is to be asked about, for the director to take."""
        self.retagged: dict[UserKey, bytes] = {}
        """Users on a host that has another tag now: they are to be moved, for the director to take."""
        self.unread: list[UserKey] = []
        """Users whose buckets have not been read from the store yet, for the director to take."""
        self._asked: set[UserKey] = set()
        """Users whom the store is settling."""
        self._again_at: float | None = None

    def lookup(self, event: Lookup, now: Now) -> list[Effect]:
        """A login the hot path could not answer: try once more with the state as it is, else let it wait."""
        if self.removed:
            self._counters.refused += 1
            return [Refuse(event.request, REMOVED)]
        answer = self._assign(event.key, event.tag)
        if isinstance(answer, Backend):
            return [Answer(event.request, event.key, answer)]
        if self._pending.full:
            self._counters.refused += 1
            self._counters.waiting_refused += 1
            return [Refuse(event.request, FULL)]
        self._note(event.key, event.tag, answer)
        self._pending.add(event.request, event.key, event.tag, now.mono, answer)
        return self._claims([(event.key, event.tag, answer)])

    def turn(self, now: Now) -> list[Effect]:
        """This turn's share of those who were woken, and those whose time is over."""
        if self._again_at is not None and now.mono >= self._again_at:
            self._again_at = None
            self._pending.wake()
        effects = self._try(self._pending.to_try(SLICE)) if self._pending.awake else []
        return effects + self._refuse(now)

    def claimed(self, key: UserKey, now: Now) -> list[Effect]:
        """The store has settled a user; what it says is in the table."""
        user = self._users.get(key)
        if user is not None and user.host and is_alive(user, self._assigner.unix, self._users.expire):
            self._users.touch(key, self._assigner.unix)  # near expiry too: the store has been asked
        answers, waiting = self._answer(self._pending.of(key))
        if user is None and self._assigner.full:
            by_hash, waiting = self._by_hash(waiting)
            answers += by_hash
        self._pending.calm(key)
        if waiting:
            self._again_at = now.mono + CLAIM_AGAIN
        self._asked.discard(key)
        return answers

    def claim_failed(self, key: UserKey, now: Now) -> None:
        self._asked.discard(key)
        self._again_at = now.mono + CLAIM_AGAIN

    def binds(self, key: UserKey, now: float) -> bool:
        """Whether what is remembered of a user must be kept by a claim: he is alive, and his host was not
        removed.

        A host we have not heard of may be known to those who settled the user: their host table is on its
        way, so the user waits for it, but not for ever. now: monotonic."""
        user = self._users.get(key)
        if user is None or not is_alive(user, self._assigner.unix, self._users.expire):
            return False
        if user.host == 0:
            return bool(user.flags & MOVING)  # forgotten: he is placed afresh, once his old sessions are gone
        if self._hosts.knows(user.host):
            return not self._hosts.host_removed(user)
        waiting = self._pending.of(key)
        return not waiting or now < waiting[0].since + CLAIM_AFTER

    @property
    def has_work(self) -> bool:
        """Whether something is left over for the next turn."""
        return bool(self.near or self.retagged or self.unread or (self.removed and len(self._pending)))

    def next_deadline(self) -> float | None:
        deadlines = (self._again_at, self._pending.next_deadline())
        return min((d for d in deadlines if d is not None), default=None)

    def _assign(self, key: UserKey, tag: bytes) -> Backend | Wait:
        answer = self._assigner.assign(key, tag)
        if answer is not Wait.READDRESSED:
            return answer
        user = self._users.get(key)
        if user is not None and user.flags & MOVING:
            return Wait.MOVING  # his move follows the host
        if self._moved_hosts.follow(key):
            return self._assigner.assign(key, tag)
        # Its backend has no address now. Who is to be there for good waits for it, others go elsewhere.
        return answer if user is not None and user.flags & PINNED else self._assigner.choose(key, tag)

    def _try(self, waiting: Iterable[WaitingLogin]) -> list[Effect]:
        answers, unanswered = self._answer(waiting)
        return [*self._claims((login.key, login.tag, login.wait) for login in unanswered), *answers]

    def _answer(self, waiting: Iterable[WaitingLogin]) -> tuple[list[Effect], list[WaitingLogin]]:
        """The answers that can be given, and those who go on waiting."""
        answers: list[Effect] = []
        unanswered = []
        for login in waiting:
            answer = self._assign(login.key, login.tag)
            if isinstance(answer, Backend):
                self._pending.remove(login.request)
                self._counters.answered_later += 1
                answers.append(Answer(login.request, login.key, answer))
            else:
                self._pending.goes_on(login, answer)
                self._note(login.key, login.tag, answer)
                unanswered.append(login)
        return answers, unanswered

    def _by_hash(self, waiting: Iterable[WaitingLogin]) -> tuple[list[Effect], list[WaitingLogin]]:
        """Answers for users who are known nowhere and cannot be remembered, and those who go on waiting."""
        answers: list[Effect] = []
        unanswered = []
        for login in waiting:
            backend = self._assigner.place(login.key >> 32, login.tag) if login.wait is Wait.RING else None
            if backend is None:
                unanswered.append(login)
                continue
            self._assigner.not_remembered += 1
            self._counters.answered_later += 1
            self._pending.remove(login.request)
            answers.append(Answer(login.request, login.key, backend))
        return answers, unanswered

    def _note(self, key: UserKey, tag: bytes, answer: Wait) -> None:
        """Somebody has to be asked, or moved, before this user can be answered."""
        if answer is Wait.NEAR:
            self.near[key] = tag
        elif answer is Wait.RETAGGED:
            self.retagged[key] = tag
        elif answer is Wait.UNREAD:
            self.unread.append(key)

    def _claims(self, waiting: Iterable[tuple[UserKey, bytes, Wait]]) -> list[Effect]:
        """New users in a partial ring: ask the store, once for each user."""
        if not self.claiming:
            return []
        effects: list[Effect] = []
        for key, tag, wait in waiting:
            backend = self._assigner.place(key >> 32, tag) if wait is Wait.RING else None
            if backend is None or key in self._asked:
                continue
            self._asked.add(key)
            old = self._users.get(key)
            self._counters.claims += 1
            if old is None and self._assigner.full:
                effects.append(Claim(key, b""))
                continue
            unix = self._assigner.unix
            decided = Stamp(max(unix, backend.since, backend.retagged, old.decided + 1 if old else 0))
            effects.append(Claim(key, pack([User(key, backend.id, decided, unix, 0)])))
        return effects

    def _refuse(self, now: Now) -> list[Effect]:
        effects: list[Effect] = []
        if self.removed:
            for login in self._pending.first(SLICE):
                self._pending.remove(login.request)
                self._counters.refused += 1
                effects.append(Refuse(login.request, REMOVED))
        for login in self._pending.overdue(now.mono, SLICE):
            self._counters.refused += 1
            effects.append(Refuse(login.request, f"{login.wait.value}, waited {PENDING_TIMEOUT:.0f} s"))
        return effects
