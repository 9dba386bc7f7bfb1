"""One link: greeting, proof, time-outs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from director.core.protocol.effects import Close, Effect, LogEvent, Seal, Send, Unseal
from director.core.protocol.linkkeys import Keys
from director.core.protocol.messages import (
    Bye,
    Digests,
    ExchangeDone,
    Hello,
    Hosts,
    Linked,
    Names,
    Ping,
    Pong,
    Proof,
    Redirect,
    RingMessage,
    Token,
    Users,
)
from director.core.protocol.transitions import WrongTransition
from director.core.ring.link import HANDSHAKE_TIMEOUT, Identity, LinkState, Neighbour
from director.types import Address, LinkId, MemberId, Now
from tests.unit.core.cores import plain

D1, D2 = MemberId("10.0.0.1:9090"), MemberId("10.0.0.2:9090")


def at(mono: float, *, skew: float = 0.0) -> Now:
    return Now(mono, 1_000_000 + mono + skew)


def identity(member: MemberId, **fields: Any) -> Identity:
    usual: dict[str, Any] = {
        "member": member,
        "incarnation": 7,
        "username_hash": "%Lu",
        "expire": 900,
        "secret": b"the secret of the ring",
        "ping_interval": 1.0,
        "ping_timeout": 5.0,
        "max_clock_skew": 2.0,
    }
    return Identity(**(usual | fields))


def dialler(nonce: bytes = b"one", **fields: Any) -> Neighbour:
    """d1's end of the link it has dialled to d2."""
    me = identity(D1, **fields)
    return Neighbour(LinkId(1), me, Address("10.0.0.2"), D2, nonce, at(0))


def acceptor(nonce: bytes = b"two", *, skew: float = 0.0, **fields: Any) -> Neighbour:
    """d2's end of the same link."""
    me = identity(**({"member": D2} | fields))
    return Neighbour(LinkId(2), me, Address("10.0.0.1"), None, nonce, at(0, skew=skew))


def sent(effects: list[Effect] | None) -> list[RingMessage]:
    assert effects is not None
    return [message for effect in effects if isinstance(effect, Send) for message in effect.messages]


def talk(one: Neighbour, other: Neighbour) -> list[tuple[Neighbour, RingMessage]]:
    """Carry messages to and fro until neither end sends any. Returns each with its sender."""
    said = [(end, message) for end in (one, other) for message in sent(end.open())]
    for speaker, message in said:
        hearer = other if speaker is one else one
        if hearer.state is not LinkState.CLOSED:
            said += [(hearer, answer) for answer in sent(hearer.handle(message, at(0), plain(message)))]
    return said


def live() -> Neighbour:
    one = dialler()
    talk(one, acceptor())
    return one


def apart(skew: float) -> str:
    return f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'}"


def reason(effects: list[Effect] | None) -> str:
    """The reason in the log, which is also in the Bye."""
    assert effects is not None
    (log,) = [effect for effect in effects if isinstance(effect, LogEvent)]
    byes = [message.reason for message in sent(effects) if isinstance(message, Bye)]
    assert byes in ([], [log.fields["reason"]])
    return str(log.fields["reason"])


def test_both_ends_greet_prove_and_begin_the_exchange() -> None:
    one, other = dialler(), acceptor()
    said = talk(one, other)
    assert (one.state, other.state) == (LinkState.EXCHANGING, LinkState.EXCHANGING)
    assert (one.peer, other.peer, other.peer_incarnation) == (D2, D1, 7)
    assert sorted(type(message).__name__ for _, message in said) == ["Hello", "Hello", "Proof", "Proof"]


IDLE: list[RingMessage] = [
    Users(b""),
    Hosts([]),
    Digests(0, bytes(8)),
    ExchangeDone(True),
    Token("", 1, 1, b"", []),
    Redirect("10.0.0.3:9090"),
    Linked(),
    Names(b"", 0),
]
HELLO = Hello(2, 2, D2, 7, b"two", 1_000_000, "%Lu", 900)

TRANSITIONS = {
    LinkState.GREETING: {Hello: LinkState.PROVING},
    LinkState.PROVING: {},
    LinkState.EXCHANGING: {Ping: LinkState.EXCHANGING, Pong: LinkState.EXCHANGING},
    LinkState.FULL: {Ping: LinkState.FULL, Pong: LinkState.FULL},
    LinkState.CLOSED: dict.fromkeys([Hello, Proof, Ping, Pong, *map(type, IDLE)], LinkState.CLOSED),
}
"""Which message leaves a link in which state; what is not here closes it. A proof that fits is another
test."""
RINGS_OWN = {LinkState.EXCHANGING, LinkState.FULL}
"""In these states the messages of IDLE are for the ring."""


def in_state(state: LinkState) -> Neighbour:
    neighbour = dialler()
    neighbour.handle(HELLO, at(0))
    neighbour.state = state
    return neighbour


@pytest.mark.parametrize("state", LinkState)
@pytest.mark.parametrize(
    "message", [HELLO, Proof(b"wrong"), Ping(1), Pong(1), *IDLE], ids=lambda m: type(m).__name__
)
def test_every_message_has_its_place_or_closes_the_link(state: LinkState, message: RingMessage) -> None:
    neighbour = in_state(state)
    effects = neighbour.handle(message, at(0.1))
    for_the_ring = state in RINGS_OWN and message in IDLE
    expected = state if for_the_ring else TRANSITIONS[state].get(type(message), LinkState.CLOSED)
    assert neighbour.state is expected
    assert (effects is None) == for_the_ring


@pytest.mark.shows("I-3")
@pytest.mark.parametrize(
    "state", [LinkState.GREETING, LinkState.PROVING, LinkState.EXCHANGING, LinkState.FULL]
)
def test_a_bye_closes_the_link_in_any_state_and_its_reason_is_logged(state: LinkState) -> None:
    neighbour = in_state(state)
    effects = neighbour.handle(Bye("wrong ring secret"), at(0.1))
    assert neighbour.state is LinkState.CLOSED
    assert reason(effects) == "closed by the other end: wrong ring secret"
    assert sent(effects) == []


def test_nothing_closes_twice() -> None:
    neighbour = live()
    assert neighbour.close("first") != []
    assert neighbour.close("second") == []


REFUSALS = [
    ({"username_hash": "%u"}, "users.username_hash differs"),
    ({"expire": 60}, "users.expire differs"),
    ({"member": MemberId("10.0.0.3:9090")}, "was dialled, but the director there is"),
    ({"member": D1}, "two directors use the address 10.0.0.1:9090"),
    ({"secret": b"something else"}, "wrong ring secret"),
]


@pytest.mark.shows("I-44")
@pytest.mark.parametrize(("differs", "text"), REFUSALS)
def test_a_greeting_that_does_not_fit_is_refused_and_both_ends_log_the_reason(
    differs: dict[str, Any], text: str
) -> None:
    one, other = dialler(), acceptor(**differs)
    said = [(one, message) for message in sent(one.open())] + [
        (other, message) for message in sent(other.open())
    ]
    logged: dict[int, list[str]] = {id(one): [], id(other): []}
    for speaker, message in said:
        hearer = other if speaker is one else one
        effects = hearer.handle(message, at(0), plain(message)) or []
        logged[id(hearer)] += [str(e.fields["reason"]) for e in effects if isinstance(e, LogEvent)]
        said += [(hearer, answer) for answer in sent(effects)]
    assert (one.state, other.state) == (LinkState.CLOSED, LinkState.CLOSED)
    assert [any(text in line for line in lines) for lines in logged.values()] == [True, True]
    assert "something else" not in repr(said) + repr(logged)


@pytest.mark.shows("rule 3", "I-13")
@pytest.mark.parametrize("skew", [-2.1, 2.1, 3600.0])
def test_a_clock_that_is_off_by_more_than_two_seconds_is_named(skew: float) -> None:
    one, other = dialler(), acceptor(skew=skew)
    (hello,) = sent(other.open())
    assert f"the clock of {D2} is {apart(skew)} that of {D1}" in reason(one.handle(hello, at(0)))


@pytest.mark.shows("rule 3", "A-58")
@pytest.mark.parametrize("unix", [math.nan, math.inf, -math.inf])
def test_a_clock_that_says_no_time_is_refused_at_the_greeting_and_with_a_pong(unix: float) -> None:
    (hello,) = sent(acceptor().open())
    assert isinstance(hello, Hello)
    greeted = dialler()
    assert f"the clock of {D2} gives {unix}" in reason(greeted.handle(replace(hello, unix=unix), at(0)))
    one = live()
    one.ping(at(1))
    assert f"the clock of {D2} gives {unix}" in reason(one.handle(Pong(1, unix), at(1.0)))
    assert (greeted.state, one.state) == (LinkState.CLOSED, LinkState.CLOSED)


@pytest.mark.shows("A-59")
@pytest.mark.parametrize("incarnation", [-1, 1 << 62, (1 << 64) - 1])
def test_an_incarnation_above_which_there_is_no_other_is_refused(incarnation: int) -> None:
    (hello,) = sent(acceptor().open())
    assert isinstance(hello, Hello)
    effects = dialler().handle(replace(hello, incarnation=incarnation), at(0))
    assert f"{D2} has the incarnation {incarnation}" in reason(effects)


def test_of_a_long_reason_for_a_good_bye_the_beginning_is_logged() -> None:
    assert reason(live().handle(Bye("x" * 1_000_000), at(1))) == "closed by the other end: " + "x" * 300


@pytest.mark.parametrize("skew", [-1.9, 0.0, 1.9])
def test_a_clock_that_is_off_by_less_is_accepted(skew: float) -> None:
    (hello,) = sent(acceptor(skew=skew).open())
    one = dialler()
    one.handle(hello, at(0))
    assert (one.state, round(one.skew, 3)) == (LinkState.PROVING, skew)


@pytest.mark.shows("I-12")
def test_a_director_that_speaks_from_another_address_than_the_listed_is_refused() -> None:
    other = Neighbour(LinkId(2), identity(D2), Address("10.0.0.9"), None, b"two", at(0))
    (hello,) = sent(dialler().open())
    assert "connects from 10.0.0.9" in reason(other.handle(hello, at(0)))


@pytest.mark.shows("K13", "R-61")
@pytest.mark.parametrize(
    ("version", "oldest", "state"),
    [
        (2, 2, LinkState.PROVING),
        (2, 1, LinkState.PROVING),
        (3, 2, LinkState.PROVING),
        (3, 3, LinkState.CLOSED),
        (1, 1, LinkState.CLOSED),
        (0, 0, LinkState.CLOSED),
        (9, 5, LinkState.CLOSED),
    ],
)
def test_versions_are_negotiated_and_what_has_none_in_common_is_refused(
    version: int, oldest: int, state: LinkState
) -> None:
    one = dialler()
    one.handle(Hello(version, oldest, D2, 7, b"two", 1_000_000, "%Lu", 900), at(0))
    assert (one.state, one.version) == (state, 2)


@pytest.mark.parametrize("name", ["", "10.0.0.2", "a-name", "10.0.0.2:99999"])
def test_a_greeting_without_a_proper_name_is_refused(name: str) -> None:
    effects = dialler().handle(Hello(2, 2, name, 7, b"two", 1_000_000, "%Lu", 900), at(0))
    assert "is not ADDRESS:PORT" in reason(effects)


def test_a_recorded_handshake_played_again_is_refused() -> None:
    recorded = dialler(b"one")
    said = [message for speaker, message in talk(recorded, acceptor(b"two")) if speaker is recorded]
    victim = acceptor(b"three")
    effects: list[Effect] = []
    for message in said:
        effects += victim.handle(message, at(0), plain(message)) or []
    assert victim.state is LinkState.CLOSED
    assert "wrong ring secret" in reason([e for e in effects if not isinstance(e, Send)])


@pytest.mark.shows("A-17")
def test_our_own_proof_sent_back_to_us_is_refused() -> None:
    one = dialler(b"one")
    (mine,) = sent(one.open())
    assert isinstance(mine, Hello)
    echo = Hello(mine.version, mine.oldest_version, D2, mine.incarnation, mine.nonce, mine.unix, "%Lu", 900)
    (proof,) = sent(one.handle(echo, at(0), plain(echo)))
    one.handle(proof, at(0))
    assert one.state is LinkState.CLOSED


@pytest.mark.shows("A-19")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 3),
        ("oldest_version", 0),
        ("incarnation", 8),
        ("nonce", b"x"),
        ("unix", 1_000_001.0),
        ("leftwards", True),
    ],
)
@pytest.mark.parametrize("of_the_dialler", [True, False])
def test_a_greeting_changed_on_the_way_does_not_fit_the_proof_of_either_end(
    field: str, value: object, of_the_dialler: bool
) -> None:
    speaker, hearer = (dialler(), acceptor()) if of_the_dialler else (acceptor(), dialler())
    (spoken,), (answer,) = sent(speaker.open()), sent(hearer.open())
    changed = msgspec.structs.replace(spoken, **{field: value})
    proofs = [
        *sent(speaker.handle(answer, at(0), plain(answer))),
        *sent(hearer.handle(changed, at(0), plain(changed))),
    ]
    for end, proof in zip((hearer, speaker), proofs, strict=True):
        assert "wrong ring secret" in reason([e for e in end.handle(proof, at(0)) or []])
        assert (end.state, end.disproved) == (LinkState.CLOSED, True)


def test_a_field_that_only_a_newer_release_knows_is_covered_by_the_proof_too() -> None:
    one, other = dialler(), acceptor()
    (mine,), (theirs,) = sent(one.open()), sent(other.open())
    (fields,) = msgspec.msgpack.decode(plain(theirs))
    one.handle(theirs, at(0), msgspec.msgpack.encode([[*fields, "added on the way"]]))
    (proof,) = sent(other.handle(mine, at(0), plain(mine)))
    one.handle(proof, at(0))
    assert one.state is LinkState.CLOSED


def seals(effects: list[Effect] | None) -> Keys:
    """The keys that a greeting has brought. The proof leaves in front of the first sealed frame."""
    assert effects is not None
    send, seal = effects
    assert isinstance(send, Send)
    assert isinstance(seal, Seal)
    (proof,) = send.messages
    assert isinstance(proof, Proof)
    return seal.keys


def keys_of(one: Neighbour, other: Neighbour) -> tuple[Keys, Keys]:
    (mine,), (theirs,) = sent(one.open()), sent(other.open())
    return seals(one.handle(theirs, at(0), plain(theirs))), seals(other.handle(mine, at(0), plain(mine)))


def test_each_direction_of_a_link_has_a_key_that_both_ends_know() -> None:
    near, far = keys_of(dialler(), acceptor())
    assert (near.sending, near.receiving) == (far.receiving, far.sending)
    assert near.sending != near.receiving
    assert len(near.sending) == len(near.receiving) == 32


def test_no_two_links_have_a_key_in_common() -> None:
    ends = [
        (dialler(b"one"), acceptor(b"two")),
        (dialler(b"one"), acceptor(b"three")),
        (dialler(b"four"), acceptor(b"two")),
        (dialler(b"one", secret=b"other"), acceptor(b"two", secret=b"other")),
        (dialler(b"one", incarnation=8), acceptor(b"two")),
    ]
    keys = [key for pair in ends for key in msgspec.structs.astuple(keys_of(*pair)[0])]
    assert len(set(keys)) == 2 * len(ends)


OLD, NEW = b"the secret of the ring", b"the next secret of the ring"


def with_secrets(lines: Sequence[bytes]) -> dict[str, bytes]:
    return {"secret": lines[0], "second_secret": b"".join(lines[1:])}


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ([OLD, NEW], [OLD]),
        ([OLD, NEW], [OLD, NEW]),
        ([NEW, OLD], [OLD, NEW]),
        ([NEW, OLD], [NEW, OLD]),
        ([NEW], [NEW, OLD]),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_while_the_secret_is_being_changed_each_step_links_and_both_ends_have_the_same_keys(
    near: list[bytes], far: list[bytes], *, swapped: bool
) -> None:
    one, other = dialler(**with_secrets(near)), acceptor(**with_secrets(far))
    if swapped:
        one, other = dialler(**with_secrets(far)), acceptor(**with_secrets(near))
    keys: dict[int, Keys] = {}
    said = [(end, message) for end in (one, other) for message in sent(end.open())]
    for speaker, message in said:
        hearer = other if speaker is one else one
        effects = hearer.handle(message, at(0), plain(message)) or []
        for effect in effects:
            if isinstance(effect, Seal):
                keys[id(hearer)] = effect.keys
            if isinstance(effect, Unseal):
                keys[id(hearer)] = Keys(keys[id(hearer)].sending, effect.key)
        said += [(hearer, answer) for answer in sent(effects)]
    assert (one.live, other.live) == (True, True)
    assert keys[id(one)].sending == keys[id(other)].receiving
    assert keys[id(one)].receiving == keys[id(other)].sending
    assert len({*msgspec.structs.astuple(keys[id(one)])}) == 2


def test_a_director_that_offers_a_secret_before_all_accept_it_is_refused() -> None:
    one, other = dialler(**with_secrets([NEW, OLD])), acceptor(**with_secrets([OLD]))
    talk(one, other)
    assert (one.state, other.state) == (LinkState.CLOSED, LinkState.CLOSED)


@pytest.mark.shows("A-29")
@pytest.mark.parametrize(
    ("near", "far", "after", "stays"),
    [
        ([OLD], [OLD], [OLD, NEW], True),
        ([OLD, NEW], [OLD, NEW], [NEW, OLD], True),
        ([NEW, OLD], [NEW, OLD], [NEW], True),
        ([OLD, NEW], [OLD, NEW], [NEW], False),
        ([NEW, OLD], [OLD, NEW], [NEW], False),
        ([OLD, NEW], [NEW, OLD], [NEW], False),
    ],
)
def test_a_link_made_with_a_secret_that_is_removed_is_made_anew_and_any_other_stays(
    near: list[bytes], far: list[bytes], after: list[bytes], *, stays: bool
) -> None:
    one, other = dialler(**with_secrets(near)), acceptor(**with_secrets(far))
    talk(one, other)
    effects = one.set_identity(msgspec.structs.replace(one.me, **with_secrets(after)))
    assert (one.live, one.routine) == (stays, not stays)
    assert stays or "ring.secret_file has changed" in reason(effects)


def test_a_proof_with_a_secret_that_was_removed_during_the_handshake_is_refused() -> None:
    one, other = dialler(**with_secrets([NEW, OLD])), acceptor(**with_secrets([OLD, NEW]))
    (mine,), (theirs,) = sent(one.open()), sent(other.open())
    one.handle(theirs, at(0), plain(theirs))
    (proof,) = sent(other.handle(mine, at(0), plain(mine)))
    one.set_identity(msgspec.structs.replace(one.me, **with_secrets([NEW])))
    one.handle(proof, at(0))
    assert (one.state, one.disproved) == (LinkState.CLOSED, True)


def end_with(neighbour: Neighbour, certificates: bytes) -> Neighbour:
    dialled = neighbour.dialled
    nonce = b"one" if dialled else b"two"
    return Neighbour(
        neighbour.link, neighbour.me, neighbour.remote, dialled, nonce, at(0), certificates=certificates
    )


@pytest.mark.parametrize(
    ("near", "far"),
    [(b"A" * 32 + b"M" * 32, b"M" * 32 + b"B" * 32), (b"", b"A" * 32 + b"B" * 32), (b"AB", b"BA")],
    ids=["a relay with a certificate of its own", "TLS at one end only", "swapped"],
)
def test_a_link_whose_ends_have_seen_other_certificates_is_refused_by_both(near: bytes, far: bytes) -> None:
    one, other = end_with(dialler(), near), end_with(acceptor(), far)
    talk(one, other)
    assert (one.state, other.state) == (LinkState.CLOSED, LinkState.CLOSED)
    assert (one.disproved, other.disproved) == (True, True)


def test_a_link_whose_ends_have_seen_the_same_certificates_is_let_in() -> None:
    one, other = end_with(dialler(), b"A" * 32 + b"B" * 32), end_with(acceptor(), b"A" * 32 + b"B" * 32)
    talk(one, other)
    assert (one.live, other.live) == (True, True)


def test_neither_secret_nor_keys_are_in_what_may_be_printed() -> None:
    one, other = dialler(), acceptor()
    near, _ = keys_of(one, other)
    seal = Seal(LinkId(1), near)
    shown = "".join(f"{thing!r}{thing}" for thing in (one.me, near, seal, [seal], one._handshake))
    for hidden in (b"the secret of the ring", near.sending, near.receiving, *one._handshake._roots):
        assert repr(hidden)[2:-1] not in shown
        assert hidden.hex() not in shown


@pytest.mark.shows("R-63")
def test_a_handshake_that_does_not_continue_is_given_up() -> None:
    one = dialler()
    assert one.next_deadline() == HANDSHAKE_TIMEOUT
    assert one.tick(at(HANDSHAKE_TIMEOUT - 0.1)) == []
    assert "did not get beyond greeting" in reason(one.tick(at(HANDSHAKE_TIMEOUT))).lower()


def test_a_ping_is_sent_every_interval_and_answered() -> None:
    one = live()
    assert one.next_deadline() == 1.0
    assert one.tick(at(0.9)) == []
    assert sent(one.tick(at(1.0))) == [Ping(1)]
    assert sent(one.handle(Ping(5), at(1.1))) == [Pong(5, at(1.1).unix)]
    one.handle(Pong(1), at(1.025))
    assert (one.ping_ms, one.pong_serial) == (25, 1)


@pytest.mark.shows("rule 3", "I-13")
@pytest.mark.parametrize("skew", [-2.1, 2.1, 3600.0])
def test_a_clock_that_jumps_on_a_standing_link_is_named_with_the_next_pong(skew: float) -> None:
    one = live()
    one.ping(at(1))
    effects = one.handle(Pong(1, at(1).unix + skew), at(1.0))
    assert f"is {apart(skew)} that of" in reason(effects)
    assert one.state is LinkState.CLOSED


def test_a_slow_pong_does_not_make_a_clock_wrong() -> None:
    one = live()
    one.ping(at(1))
    assert one.handle(Pong(1, at(1).unix - 1.9), at(4.0)) == []
    assert one.live


@pytest.mark.parametrize("suspended", [5.0, 600.0, 86_400.0])
def test_a_director_whose_machine_was_suspended_does_not_report_the_clock_of_its_neighbour(
    suspended: float,
) -> None:
    one = live()
    one.agreed_since = None
    one.ping(at(1))
    # Monotonic time did not advance; the neighbour had answered at once, and the answer waited in the kernel.
    assert one.handle(Pong(1, at(1).unix), at(1.1, skew=suspended)) == []
    assert (one.live, abs(one.skew) < 2.0, one.agreed_since) == (True, True, None)
    one.ping(at(2, skew=suspended))
    assert one.handle(Pong(2, at(2, skew=suspended).unix), at(2.0, skew=suspended)) == []
    assert one.agreed_since == 2.0


def test_a_clock_that_is_wrong_is_named_soon_after_a_suspension() -> None:
    one = live()
    one.ping(at(1))
    one.handle(Pong(1, at(1).unix), at(1.1, skew=600.0))
    one.ping(at(2, skew=600.0))
    assert "is 600.0 s behind that of" in reason(one.handle(Pong(2, at(2).unix), at(2.0, skew=600.0)))


def test_a_greeting_that_waited_while_this_director_was_suspended_is_not_a_wrong_clock() -> None:
    (hello,) = sent(acceptor().open())
    dialled_before = dialler()
    assert dialled_before.handle(hello, at(0, skew=600.0)) != []
    assert dialled_before.state is LinkState.PROVING
    accepted_after = Neighbour(
        LinkId(1), identity(D1), Address("10.0.0.2"), None, b"one", at(600), suspended=599.0
    )
    accepted_after.handle(hello, at(600))
    assert accepted_after.state is LinkState.PROVING
    assert accepted_after.agreed_since is None


def test_a_greeting_from_before_a_suspension_does_not_vouch_for_a_clock() -> None:
    one = dialler()
    other = acceptor()
    one._suspended = 600.0
    talk(one, other)
    assert one.live
    assert (one.agreed_since, other.agreed_since) == (None, 0.0)


def test_the_answer_to_an_earlier_ping_does_not_count() -> None:
    one = live()
    one.ping(at(1))
    one.ping(at(2))
    one.handle(Pong(1), at(2.1))
    assert one.pong_serial == 0


def test_a_silent_neighbour_is_given_up_after_the_ping_timeout() -> None:
    one = live()
    one.heard = 3.0
    assert [e for e in one.tick(at(7.9)) if isinstance(e, Close)] == []
    assert reason(one.tick(at(8.0))) == "nothing was received for 5.0 s (ring.ping_timeout)"


@pytest.mark.parametrize("heard", [0.1, 0.7, 1.1, 3.3])
def test_what_is_due_at_a_deadline_is_done_at_it_whatever_the_rounding(heard: float) -> None:
    one = live()
    one.heard = heard
    deadline = heard + 5.0
    one.tick(at(deadline - 0.5))
    one.tick(at(deadline))
    assert one.state is LinkState.CLOSED


def test_a_change_of_state_that_the_table_does_not_have_is_a_bug_that_is_named() -> None:
    neighbour = dialler()
    with pytest.raises(WrongTransition, match="LinkState: GREETING -> FULL"):
        neighbour.enter(LinkState.FULL)
    assert neighbour.state is LinkState.GREETING
