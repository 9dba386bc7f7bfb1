"""A move step by step, with neighbours, kicks, store and flush program played by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from director.core.moves.jobs import MoveUser
from director.core.moves.leaderwatch import ABANDONED
from director.core.moves.movestate import SUBJECT, TRANSITIONS, Stage
from director.core.moves.movingusers import MOVE_TIMEOUT
from director.core.placement.addresses import host_id
from director.core.placement.users import BUCKET_SHIFT, BY_HAND, MOVING, PINNED, User, pack, unpack
from director.core.protocol.effects import (
    Answer,
    Effect,
    Kick,
    LogEvent,
    OperationFailed,
    Persist,
    RunFlush,
    StopFlush,
    UsersDone,
)
from director.core.protocol.events import FlushEnded, HostChange, Kicked, KicksEnded, Lookup, Persisted
from director.core.protocol.kicktypes import HashOnHosts
from director.core.protocol.messages import MoveRound, Token, Users
from director.core.protocol.ringtimings import ROUND_AGAIN, STORE_WAIT
from director.errors import TryAgain, UnknownName
from director.records import MoveCounts
from director.types import HostId, LinkId, MemberId, RequestId, Stamp
from tests.unit.core.cores import BACKENDS, D1, D2, D3, START, Played, in_ring, messages, of, user

OLD, NEW, THIRD = BACKENDS[0], BACKENDS[3], BACKENDS[2]
ALICE = user(b"alice", OLD)
KEY = ALICE.key


class Mover:
    """d1, asked to move alice from OLD to NEW, and what it has wanted so far."""

    def __init__(self, *, known: bool = True, **settings: Any) -> None:
        self.played = in_ring(**settings)
        if known:
            self.played.users.merge(pack([ALICE]))
        self.effects: list[Effect] = []

    def until(self, mono: float) -> list[Effect]:
        effects = self.played.until(mono)
        self.effects += effects
        return effects

    def handle(self, event: object, mono: float) -> list[Effect]:
        effects = self.played.handle(event, mono)  # type: ignore[arg-type]
        self.effects += effects
        return effects

    def hear(self, *what: Any, mono: float) -> list[Effect]:
        effects = self.played.hear(2, *what, mono=mono)
        self.effects += effects
        return effects

    def move(self, mono: float = 1.0, **how: Any) -> list[Effect]:
        return self.handle(MoveUser(1, KEY, NEW, **how), mono)

    def stored(self, mono: float = 1.1) -> list[Effect]:
        return self.handle(Persisted(of(Persist, self.effects)[-1].number), mono)

    def kicked(self, mono: float = 1.2, sessions: int = 1) -> list[Effect]:
        return self.handle(KicksEnded([Kicked(of(Kick, self.effects)[0].kick, sessions)]), mono)

    def back(self, mono: float = 1.3, late: Sequence[MemberId] = (), kicked: int = 2) -> list[Effect]:
        """The last token comes back."""
        token = of(MoveRound, messages(self.effects))[-1]
        passed = [D1, D2, D3]
        return self.hear(MoveRound(D1, token.serial, token.moves, passed, list(late), kicked), mono=mono)

    @property
    def stage(self) -> Stage | None:
        own = self.played.core.moves._led.get(KEY)
        return None if own is None else own.stage

    @property
    def record(self) -> User:
        record = self.played.users.get(KEY)
        assert record is not None
        return record


def at_stage(stage: Stage, **settings: Any) -> Mover:
    mover = Mover(**(settings | {"flush_program": stage is Stage.FLUSHING}))
    for wanted, step in (
        (Stage.STORING, mover.move),
        (Stage.KICKING, mover.stored),
        (Stage.ROUND, mover.kicked),
        (None, mover.back),
    ):
        step()
        if stage is wanted:
            break
    assert mover.stage is stage
    return mover


def done(effects: Sequence[Effect]) -> MoveCounts:
    (end,) = of(UsersDone, effects)
    assert end.operation == 1
    return end.counts


# ---- the way of a move, one step after the other


@pytest.mark.shows("rule 5")
def test_a_move_begins_with_its_record_everywhere_a_kick_here_and_nothing_else() -> None:
    mover = Mover()
    effects = mover.move()
    records = [one for m in of(Users, messages(effects, 1)) for one in unpack(m.records)]
    assert [(r.host, r.flags) for r in records] == [(mover.record.host, MOVING | BY_HAND)]
    assert mover.record.decided > ALICE.decided
    assert of(Persist, effects)[0].buckets == (KEY >> BUCKET_SHIFT,)
    (kick,) = of(Kick, effects)
    assert isinstance(kick.what, HashOnHosts)
    assert (kick.what.hash32, NEW in kick.what.hosts, OLD in kick.what.hosts) == (KEY >> 32, False, True)
    assert of(MoveRound, messages(effects)) == []


@pytest.mark.shows("rule 26")
def test_no_token_leaves_before_the_record_is_stored_and_the_own_kick_has_ended() -> None:
    mover = Mover()
    mover.move()
    assert of(MoveRound, messages(mover.kicked(1.05))) == []
    token = of(MoveRound, messages(mover.stored(1.1), 1))
    assert token == [
        MoveRound(D1, token[0].serial, SUBJECT.pack(KEY, mover.record.decided), [D1], [], 1, parted=True),
    ]


def test_a_store_that_does_not_answer_holds_a_move_up_for_a_second_only() -> None:
    mover = Mover()
    mover.move(1.0)
    mover.kicked(1.1)
    assert of(MoveRound, messages(mover.until(0.99 + STORE_WAIT))) == []
    assert len(of(MoveRound, messages(mover.until(1.0 + STORE_WAIT)))) == 1


@pytest.mark.shows("rule 24")
def test_the_user_is_released_when_all_have_confirmed_and_the_delay_has_passed() -> None:
    mover = at_stage(Stage.ROUND)
    mover.handle(Lookup(RequestId(7), KEY, b"", b"alice"), 1.25)
    assert of(UsersDone, mover.back(1.3)) == []
    assert of(Answer, mover.until(3.29)) == []
    effects = mover.until(3.3)
    assert [(a.request, a.backend.address) for a in of(Answer, effects)] == [(7, NEW)]
    assert done(effects) == MoveCounts(moved=1, kicked=2)
    assert mover.record.flags == BY_HAND


def test_an_early_move_is_reported_when_all_have_confirmed() -> None:
    mover = Mover()
    mover.move(early=True)
    mover.stored()
    mover.kicked()
    told = done(mover.back())
    assert (told.moved, mover.stage) == (1, Stage.DELAY)
    mover.until(3.4)
    assert (told.moved, mover.stage) == (
        1,
        None,
    )  # the reported counts do not change when the delay has passed


def test_without_old_sessions_there_is_no_delay() -> None:
    mover = Mover(known=False)
    mover.move()
    mover.stored()
    assert of(Kick, mover.effects) == []
    assert done(mover.back(kicked=0)) == MoveCounts(moved=1)


def test_sessions_that_another_member_has_ended_make_a_delay_even_for_a_user_unknown_here() -> None:
    mover = Mover(known=False)
    mover.move()
    mover.stored()
    assert of(UsersDone, mover.back(kicked=1)) == []
    assert mover.stage is Stage.DELAY


def test_a_token_that_does_not_come_back_is_sent_again() -> None:
    mover = at_stage(Stage.ROUND)
    assert of(MoveRound, messages(mover.until(1.19 + ROUND_AGAIN))) == []
    (again,) = of(MoveRound, messages(mover.until(1.21 + ROUND_AGAIN)))
    first = of(MoveRound, messages(mover.effects))[0]
    assert again.serial > first.serial
    assert again.moves == first.moves


@pytest.mark.shows("rule 27")
def test_the_names_of_members_that_are_missing_or_late_are_told() -> None:
    mover = at_stage(Stage.ROUND)
    token = of(MoveRound, messages(mover.effects))[-1]
    mover.hear(MoveRound(D1, token.serial, token.moves, [D1, D2], [D2], 0), mono=1.3)
    end = done(mover.until(3.4))
    assert (end.not_reached, end.timed_out) == ([D3], 1)


def test_a_token_about_an_earlier_stamp_confirms_nothing() -> None:
    mover = at_stage(Stage.ROUND)
    old = SUBJECT.pack(KEY, mover.record.decided - 1)
    mover.hear(MoveRound(D1, 1, old, [D1, D2, D3], [], 0), mono=1.3)
    assert mover.stage is Stage.ROUND


# ---- the flush program


def test_the_flush_program_is_run_with_both_hosts_and_saves_the_delay_where_it_worked() -> None:
    mover = at_stage(Stage.FLUSHING)
    (run,) = of(RunFlush, mover.effects)
    assert (run.hash32, run.old and run.old.address, run.new and run.new.address) == (KEY >> 32, OLD, NEW)
    assert done(mover.handle(FlushEnded(run.number, True), 1.5)).moved == 1


def test_where_the_flush_program_failed_the_delay_passes() -> None:
    mover = at_stage(Stage.FLUSHING)
    (run,) = of(RunFlush, mover.effects)
    assert of(UsersDone, mover.handle(FlushEnded(run.number, False), 1.5)) == []
    told = done(mover.until(3.5))
    assert (told.moved, told.not_flushed) == (1, 1)


def test_the_end_of_a_flush_program_after_its_move_is_ignored() -> None:
    mover = at_stage(Stage.FLUSHING)
    assert of(UsersDone, mover.handle(FlushEnded(99, True), 1.5)) == []
    assert mover.stage is Stage.FLUSHING


def test_a_flush_program_is_stopped_when_its_move_ends() -> None:
    mover = at_stage(Stage.FLUSHING)
    (run,) = of(RunFlush, mover.effects)
    effects = mover.until(1.0 + MOVE_TIMEOUT)
    assert of(StopFlush, effects) == [StopFlush(run.number)]
    assert done(effects).not_flushed == 1
    assert [log.fields["state"] for log in of(LogEvent, effects) if log.event == "move_timed_out"] == [
        "flushing"
    ]


@pytest.mark.shows("A-11")
def test_many_users_who_are_let_in_before_their_moves_ended_are_logged_together() -> None:
    mover = at_stage(Stage.ROUND)
    others = [
        user(b"user%d" % number, THIRD, decided=mover.record.decided, flags=MOVING) for number in range(2000)
    ]
    mover.hear(Users(pack(others)), mono=1.0)
    effects = mover.until(1.0 + MOVE_TIMEOUT + 1.0)
    logs = [log.fields for log in of(LogEvent, effects) if log.event == "move_timed_out"]
    assert sum(log.get("users", 1) for log in logs) == 1 + len(others)
    assert len(logs) < 100
    assert all(len(log["hash"]) <= 10 for log in logs if "users" in log)


# ---- what overtakes a move, in every stage

STAGES = [stage for stage in Stage if stage is not Stage.OVER]


@pytest.mark.shows("rule 25")
@pytest.mark.parametrize("stage", STAGES)
def test_overtaken_by_a_plain_choice_it_starts_again_with_a_later_stamp(stage: Stage) -> None:
    mover = at_stage(stage)
    choice = user(b"alice", THIRD, decided=mover.record.decided + 5)
    mover.hear(Users(pack([choice])), mono=1.4)
    assert mover.stage is Stage.STORING
    assert mover.record.decided > choice.decided
    assert (mover.record.flags, mover.played.core.hosts.id_of(NEW)) == (MOVING | BY_HAND, mover.record.host)
    assert len(of(Persist, mover.effects)) == 2


@pytest.mark.shows("rule 25")
@pytest.mark.parametrize("stage", STAGES)
def test_the_operator_of_a_move_that_another_move_replaced_learns_of_it(stage: Stage) -> None:
    mover = at_stage(stage)
    other = user(b"alice", THIRD, decided=mover.record.decided + 1, flags=MOVING | BY_HAND)
    end = done(mover.hear(Users(pack([other])), mono=1.4))
    assert (end.moved, end.superseded, mover.stage) == (0, 1, None)
    assert len(of(StopFlush, mover.effects)) == (stage is Stage.FLUSHING)


@pytest.mark.parametrize("stage", STAGES)
def test_a_move_whose_user_another_director_has_released_is_done(stage: Stage) -> None:
    mover = at_stage(stage)
    released = mover.record._replace(flags=BY_HAND)
    assert done(mover.hear(Users(pack([released])), mono=1.4)).moved == 1
    assert mover.stage is None


@pytest.mark.shows("rule 26")
@pytest.mark.parametrize("stage", STAGES)
def test_in_every_stage_the_user_is_free_after_30_seconds(stage: Stage) -> None:
    mover = at_stage(stage, kick_delay=60.0)
    effects = mover.until(1.0 + MOVE_TIMEOUT)
    (log,) = [log for log in of(LogEvent, effects) if log.event == "move_timed_out"]
    # Storing and kicking end by themselves sooner; the round is what never comes back.
    stands = stage if stage in (Stage.FLUSHING, Stage.DELAY) else Stage.ROUND
    assert log.fields["state"] == stands.value
    assert (mover.record.flags, len(mover.played.core.moves)) == (BY_HAND, 0)
    done(effects)


@pytest.mark.parametrize("stage", STAGES)
def test_in_every_stage_the_target_may_be_removed_and_the_user_waits_until_the_old_sessions_have_ended(
    stage: Stage,
) -> None:
    mover = at_stage(stage)
    mover.handle(HostChange(2, NEW, remove=True), 1.4)
    assert (mover.record.host, mover.record.flags) == (0, BY_HAND | MOVING)
    for kick in of(Kick, mover.effects):
        mover.handle(KicksEnded([Kicked(kick.kick, 0)]), 1.5)
    mover.stored(1.6)
    mover.until(1.7)
    mover.back(1.8)
    mover.until(4.0)
    assert mover.stage is None
    assert (mover.record.host, mover.record.flags) == (0, BY_HAND)
    assert done(mover.effects).superseded == 1


def test_a_second_move_of_the_same_user_is_refused_meanwhile() -> None:
    mover = at_stage(Stage.ROUND)
    (failed,) = of(OperationFailed, mover.handle(MoveUser(2, KEY, OLD), 1.4))
    assert (failed.operation, failed.error) == (2, TryAgain)


def test_a_move_to_a_host_that_is_not_there_is_refused() -> None:
    mover = Mover()
    (failed,) = of(OperationFailed, mover.handle(MoveUser(2, KEY, BACKENDS[0].replace(".1", ".9")), 1.4))
    assert (failed.operation, failed.error) == (2, UnknownName)


def test_a_pinned_user_is_pinned_after_the_move() -> None:
    mover = Mover()
    mover.move(pin=True)
    mover.stored()
    mover.kicked()
    mover.back()
    mover.until(4.0)
    assert mover.record.flags == BY_HAND | PINNED


# ---- moves of others


def others_move(stage_of_kick: str = "") -> tuple[Played, MoveRound, list[Effect]]:
    """d3 moves alice; its record has come."""
    played = in_ring()
    played.users.merge(pack([ALICE]))
    moving = user(b"alice", NEW, decided=START + 1, flags=MOVING | BY_HAND)
    effects = played.hear(2, Users(pack([moving])), mono=1.0)
    return played, MoveRound(D3, 5, SUBJECT.pack(KEY, START + 1), [D3], [], 1), effects


def test_a_token_waits_for_the_kick_here_and_leaves_with_its_result() -> None:
    played, token, effects = others_move()
    (kick,) = of(Kick, effects)
    assert of(MoveRound, messages(played.hear(2, token, mono=1.1))) == []
    onward = messages(played.handle(KicksEnded([Kicked(kick.kick, 2)]), 1.2), 1)
    assert of(MoveRound, onward) == [MoveRound(D3, 5, token.moves, [D3, D1], [], 3, parted=True)]


def test_a_director_whose_kick_failed_or_took_too_long_names_itself_in_the_token() -> None:
    played, token, effects = others_move()
    played.hear(2, token, mono=1.1)
    failed = messages(played.handle(KicksEnded([Kicked(of(Kick, effects)[0].kick, 0, "no answer")]), 1.2), 1)
    assert of(MoveRound, failed)[0].late == [D1]
    played, token, _ = others_move()
    played.hear(2, token, mono=1.1)
    assert of(MoveRound, messages(played.until(5.2), 1))[0].late == [D1]


@pytest.mark.shows("I-14")
def test_a_token_about_a_user_without_a_record_here_passes_at_once() -> None:
    played = in_ring()
    token = MoveRound(D3, 5, SUBJECT.pack(KEY, START), [D3], [], 0)
    assert of(MoveRound, messages(played.hear(2, token), 1)) == [
        MoveRound(D3, 5, token.moves, [D3, D1], [], 0)
    ]


def test_a_token_that_has_passed_here_before_dies() -> None:
    played = in_ring()
    token = MoveRound(D3, 5, SUBJECT.pack(KEY, START), [D3, D1, D2], [], 0)
    assert of(MoveRound, messages(played.hear(2, token))) == []


def test_a_login_of_a_user_moved_by_another_director_waits_until_the_release() -> None:
    played, _, _ = others_move()
    assert of(Answer, played.handle(Lookup(RequestId(7), KEY, b"", b"alice"), 1.1)) == []
    released = user(b"alice", NEW, decided=START + 1, flags=BY_HAND)
    effects = played.hear(2, Users(pack([released])), mono=3.0)
    assert [answer.backend.address for answer in of(Answer, effects)] == [NEW]


def in_ring_of_two() -> Played:
    """d3 has gone: d1 and d2 are the ring."""
    played = Played(D2, D3)
    played.link(1, D2, dialled=True)
    played.link(2, D2, dialled=False)
    digest = played.core.hosts.digest()
    for lap, passed in ((1, [D2]), (2, [D2, D1])):
        played.hear(2, Token(D2, 1, lap, digest, list(passed)), mono=0.5)
    return played


def written_by(member: MemberId, others: Sequence[MemberId]) -> User:
    """A user whose bucket this member usually writes."""
    played = in_ring_of_two()
    writers = played.core._writers
    for number in range(100):
        one = user(b"user%d" % number, OLD, decided=START + 1, flags=MOVING | BY_HAND)
        if writers.of(one.key >> BUCKET_SHIFT, [*others]) == member:
            return one
    raise AssertionError("no such user")


@pytest.mark.shows("rule 26")
@pytest.mark.parametrize(("writer", "takes"), [(D1, True), (D2, False)])
def test_a_move_whose_origin_is_gone_is_taken_over_by_the_usual_writer(writer: MemberId, takes: bool) -> None:
    one = written_by(writer, [D1, D2])
    played = in_ring_of_two()
    (kick,) = of(Kick, played.hear(2, Users(pack([one])), mono=1.0))
    played.handle(KicksEnded([Kicked(kick.kick, 0)]), 1.1)
    played.until(1.0 + ROUND_AGAIN - 0.1)
    assert played.core.moves.led == 0
    effects = played.until(1.1 + ROUND_AGAIN)
    assert (played.core.moves.led, len(of(MoveRound, messages(effects, 1)))) == (takes, takes)


def test_a_director_that_takes_a_move_over_waits_for_its_own_kick_first() -> None:
    old = written_by(D1, [D1, D2])._replace(flags=0)
    played = in_ring_of_two()
    played.users.merge(pack([old]))
    moving = old._replace(host=host_id(NEW), decided=Stamp(old.decided + 1), flags=MOVING | BY_HAND)
    (kick,) = of(Kick, played.hear(2, Users(pack([moving])), mono=1.0))
    effects = played.until(1.1 + ROUND_AGAIN)
    assert played.core.moves.led == 1
    assert of(MoveRound, messages(effects, 1)) == []
    effects = played.handle(KicksEnded([Kicked(kick.kick, 1)]), 2.0 + ROUND_AGAIN) + played.until(
        2.3 + ROUND_AGAIN
    )
    assert [(token.late, token.kicked) for token in of(MoveRound, messages(effects, 1))][:1] == [([], 1)]


def test_an_origin_that_is_in_the_ring_but_has_forgotten_its_move_is_given_more_time() -> None:
    one = written_by(D1, [D1, D2])
    played = in_ring_of_two()
    played.hear(2, Users(pack([one])), MoveRound(D2, 5, SUBJECT.pack(one.key, one.decided), [D2], [], 0))
    played.until(0.9 + ABANDONED)
    assert played.core.moves.led == 0
    played.until(2.1 + ABANDONED)
    assert played.core.moves.led == 1


def test_a_director_alone_needs_no_confirmation() -> None:
    played = Played()
    played.users.merge(pack([ALICE]))
    effects = played.handle(MoveUser(1, KEY, NEW), 1)
    played.handle(Persisted(of(Persist, effects)[0].number), 1.1)
    played.handle(KicksEnded([Kicked(of(Kick, effects)[0].kick, 1)]), 1.2)
    assert done(played.until(3.3)) == MoveCounts(moved=1, kicked=1)


@pytest.mark.shows("I-52")
def test_without_a_right_neighbour_the_token_is_tried_again_as_soon_as_there_is_one() -> None:
    mover = at_stage(Stage.KICKING)
    mover.played.core.ring.links[LinkId(1)].close("gone")
    mover.until(1.15)
    mover.kicked(1.2)
    assert of(MoveRound, messages(mover.effects, 1)) == []
    mover.played.link(3, D2, dialled=True, mono=1.3)
    assert mover.stage is Stage.ROUND
    assert of(MoveRound, messages(mover.until(3.0), 3)) != []


def test_the_table_of_transitions_leads_everywhere_and_out_of_everything() -> None:
    reachable = {Stage.STORING} | {to for ways in TRANSITIONS.values() for to in ways}
    assert reachable == set(Stage) == set(TRANSITIONS)
    assert all(Stage.OVER in ways for stage, ways in TRANSITIONS.items() if stage is not Stage.OVER)


def test_a_forgotten_user_is_moved_to_no_host_and_assigned_anew_afterwards() -> None:
    played = in_ring()
    gone = user(b"alice", OLD, decided=START + 1, flags=BY_HAND)._replace(host=HostId(0))
    played.users.merge(pack([gone]))
    effects = played.handle(Lookup(RequestId(7), KEY, b"", b"alice"), 1)
    assert len(of(Answer, effects)) == 1
