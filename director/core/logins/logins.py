"""Logins that the hot path cannot answer: they wait, and are then answered, claimed in the store, or
refused."""

from __future__ import annotations

from collections.abc import Iterable

from director.core.logins.pending import PENDING_TIMEOUT, WAITING_LIMIT, Pending, WaitingLogin
from director.core.placement.assign import Assigner, Backend, Wait
from director.core.placement.users import MOVING, PINNED, User, is_unexpired, pack
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
"""Seconds until a claim that brought no host is repeated."""
REMOVED = "this director was removed from the ring"
FULL = f"{WAITING_LIMIT} logins are waiting already"


class Logins:
    """Decides about every login that the hot path passed on, and returns the answers as effects.

    An answer may write to the user table. The caller announces those changes before it sends the answer.
    """

    def __init__(
        self,
        assigner: Assigner,
        hosts: HostTable,
        pending: Pending,
        moved_hosts: MovedHosts,
        counters: Counters,
    ) -> None:
        self.claiming = False
        """Whether new users are claimed through the shared store (docs/ring.md, rule 12)."""
        self._assigner, self._users = assigner, assigner.users
        self._hosts, self._pending, self._moved_hosts = hosts, pending, moved_hosts
        self._counters = counters
        self.removed = False
        """Whether an operator has removed this director from the ring. It then refuses every login."""
        self.near: dict[UserKey, bytes] = {}
        """Users near expiry, with their tags: the director takes them from here and asks the ring."""
        self.retagged: dict[UserKey, bytes] = {}
        """Users whose host has another tag now, with their own tags: the director takes them from here and
        moves them."""
        self.unread: list[UserKey] = []
        """Users whose buckets have not been read from the store: the director takes them from here and reads
        them."""
        self._asked: set[UserKey] = set()
        """Users whose claims the store has not answered yet."""
        self._again_at: float | None = None

    def lookup(self, event: Lookup, now: Now) -> list[Effect]:
        """Answer a login that the hot path could not answer; if it still cannot be answered, let it wait.

        Returns:
            The answer, the refusal, or the claim that the login now waits for.
        """
        if self.removed:
            self._counters.refused += 1
            return [Refuse(event.request, REMOVED)]
        answer = self._assign(event.key, event.tag, event.name)
        if isinstance(answer, Backend):
            return [Answer(event.request, event.key, answer)]
        if self._pending.full:
            self._counters.refused += 1
            self._counters.waiting_refused += 1
            return [Refuse(event.request, FULL)]
        self._note(event.key, event.tag, answer)
        self._pending.add(event, now.mono, answer)
        return self._claims([(event.key, event.tag, answer)])

    def turn(self, now: Now) -> list[Effect]:
        """Try up to SLICE woken logins again, and refuse up to SLICE overdue logins."""
        if self._again_at is not None and now.mono >= self._again_at:
            self._again_at = None
            self._pending.wake()
        effects = self._try(self._pending.to_try(SLICE)) if self._pending.awake else []
        return effects + self._refuse(now)

    def claimed(self, key: UserKey, now: Now) -> list[Effect]:
        """Answer the waiting logins of a user after a claim.

        The result of the claim is in the user table already.
        """
        user = self._users.get(key)
        if user is not None and user.host and is_unexpired(user, self._assigner.unix, self._users.expire):
            # no question near expiry either: the store has just answered
            self._users.touch(key, self._assigner.unix)
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
        """Whether a claim must keep the record of a user: the assignment has not expired and its host was not
        removed.

        The host may be unknown here, but known to the directors that assigned the user: their host table is
        on its way. The user waits for it, but at most CLAIM_AFTER seconds.

        Args:
            key: of the user.
            now: monotonic seconds.
        """
        user = self._users.get(key)
        if user is None or not is_unexpired(user, self._assigner.unix, self._users.expire):
            return False
        if user.host == 0:
            # host 0: the assignment was deleted; the user is assigned anew once the old sessions have ended
            return bool(user.flags & MOVING)
        if self._hosts.knows(user.host):
            return not self._hosts.host_removed(user)
        waiting = self._pending.of(key)
        return not waiting or now < waiting[0].since + CLAIM_AFTER

    @property
    def has_work(self) -> bool:
        """Whether the next turn of the loop has something to do."""
        return bool(self.near or self.retagged or self.unread or (self.removed and len(self._pending)))

    def next_deadline(self) -> float | None:
        deadlines = (self._again_at, self._pending.next_deadline())
        return min((d for d in deadlines if d is not None), default=None)

    def _assign(self, key: UserKey, tag: bytes, name: bytes) -> Backend | Wait:
        answer = self._assigner.assign_named(key, tag, name)
        if answer is not Wait.READDRESSED:
            return answer
        user = self._users.get(key)
        if user is not None and user.flags & MOVING:
            return Wait.MOVING  # the move itself follows the host to its new address
        if self._moved_hosts.follow(key):
            return self._assigner.assign_named(key, tag, name)
        # The backend has no address now. A pinned user waits for it; other users are assigned to another
        # host.
        return answer if user is not None and user.flags & PINNED else self._assigner.choose(key, tag)

    def _try(self, waiting: Iterable[WaitingLogin]) -> list[Effect]:
        answers, unanswered = self._answer(waiting)
        return [*self._claims((login.key, login.tag, login.wait) for login in unanswered), *answers]

    def _answer(self, waiting: Iterable[WaitingLogin]) -> tuple[list[Effect], list[WaitingLogin]]:
        """Try to answer these logins. Returns the answers, and the logins that still wait."""
        answers: list[Effect] = []
        unanswered = []
        for login in waiting:
            answer = self._assign(login.key, login.tag, login.name)
            if isinstance(answer, Backend):
                self._pending.remove(login.request)
                self._counters.answered_later += 1
                answers.append(Answer(login.request, login.key, answer))
            else:
                self._pending.set_reason(login, answer)
                self._note(login.key, login.tag, answer)
                unanswered.append(login)
        return answers, unanswered

    def _by_hash(self, waiting: Iterable[WaitingLogin]) -> tuple[list[Effect], list[WaitingLogin]]:
        """Answer by the hash alone: the store has no record of the user, and the user table is full.

        Returns:
            The answers, and the logins that still wait.
        """
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
        """Remember what the director must do before this user can be answered: ask the ring, move the user,
        or read the store."""
        if answer is Wait.NEAR:
            self.near[key] = tag
        elif answer is Wait.RETAGGED:
            self.retagged[key] = tag
        elif answer is Wait.UNREAD:
            self.unread.append(key)

    def _claims(self, waiting: Iterable[tuple[UserKey, bytes, Wait]]) -> list[Effect]:
        """Return the claims for those of these logins whose users are new: one claim for each user."""
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
