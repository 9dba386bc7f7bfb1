"""Pools without a usable host: they are logged, and logins of assigned users continue."""

from __future__ import annotations

from collections.abc import Iterable

from director.core.placement.assign import Backend, Wait
from director.core.protocol.effects import Effect, Level, LogEvent
from director.core.protocol.events import HostChange, Started
from director.types import UserKey
from tests.unit.core.cores import BACKENDS, Played

KEY = UserKey(1 << 40)


def said(effects: Iterable[Effect]) -> list[tuple[Level, str, object]]:
    """Return the log events about pools."""
    logged = [
        effect for effect in effects if isinstance(effect, LogEvent) and effect.event.startswith("pool_")
    ]
    return [(log.level, log.event, log.fields["tag"]) for log in logged]


def change(core: Played, *changes: HostChange) -> list[Effect]:
    """Carry them out, one after the other."""
    return [
        effect for one in changes for effect in [*core.handle(one, core.mono), *core.until(core.mono + 1)]
    ]


def test_a_pool_that_loses_its_last_usable_host_is_named_once_and_again_when_it_has_one() -> None:
    core = Played()
    *most, last = [HostChange(number, host, up=False) for number, host in enumerate(BACKENDS, 1)]
    assert said(change(core, *most)) == []
    assert said(change(core, last)) == [(Level.WARNING, "pool_unusable", "")]
    assert said(change(core, HostChange(9, BACKENDS[0], weight=50))) == []
    assert said(change(core, HostChange(10, BACKENDS[0], up=True))) == [(Level.INFO, "pool_usable", "")]


def test_a_pool_whose_last_host_has_no_weight_or_is_removed_is_named_too() -> None:
    core = Played()
    gold = HostChange(1, BACKENDS[0], remove=True), HostChange(2, BACKENDS[0], add=True, tag="gold", weight=9)
    assert said(change(core, *gold)) == []
    assert said(change(core, HostChange(3, BACKENDS[0], weight=0))) == [
        (Level.WARNING, "pool_unusable", "gold")
    ]
    assert said(change(core, HostChange(4, BACKENDS[0], weight=9))) == [(Level.INFO, "pool_usable", "gold")]
    assert said(change(core, HostChange(5, BACKENDS[0], remove=True))) == [
        (Level.WARNING, "pool_unusable", "gold")
    ]


def test_a_director_that_starts_without_a_usable_host_says_so() -> None:
    core = Played(started=False)
    for host in BACKENDS:
        core.core.hosts.change(host, 1_000_000, up=False)
    assert said(core.handle(Started(), 0)) == [(Level.WARNING, "pool_unusable", "")]


def test_without_a_usable_host_assigned_users_are_answered_and_new_users_wait() -> None:
    core = Played()
    core.until(1)
    answer = core.core.assigner.assign(KEY, b"")
    assert isinstance(answer, Backend)
    change(core, *[HostChange(number, host, up=False) for number, host in enumerate(BACKENDS, 1)])
    later = core.core.assigner.assign(KEY, b"")
    assert isinstance(later, Backend)
    assert later.address == answer.address
    assert core.core.assigner.assign(UserKey(2 << 40), b"") is Wait.NO_HOST


def test_a_pool_that_gets_a_host_again_after_its_last_host_was_removed_is_named_as_usable() -> None:
    core = Played()
    gold = HostChange(1, BACKENDS[0], remove=True), HostChange(2, BACKENDS[0], add=True, tag="gold", weight=9)
    assert said(change(core, *gold)) == []
    assert said(change(core, HostChange(3, BACKENDS[0], remove=True))) == [
        (Level.WARNING, "pool_unusable", "gold")
    ]
    assert said(change(core, HostChange(4, BACKENDS[1], weight=7))) == []
    assert said(change(core, HostChange(5, BACKENDS[0], add=True, tag="gold", weight=0))) == []
    assert said(change(core, HostChange(6, BACKENDS[0], weight=9))) == [(Level.INFO, "pool_usable", "gold")]


def test_the_pool_without_a_tag_is_named_as_usable_when_a_host_is_given_back_to_it() -> None:
    core = Played()
    retagged = [HostChange(n, host, tag="gold", retag=True) for n, host in enumerate(BACKENDS, 1)]
    assert said(change(core, *retagged)) == [(Level.WARNING, "pool_unusable", "")]
    assert said(change(core, HostChange(9, BACKENDS[0], tag="", retag=True))) == [
        (Level.INFO, "pool_usable", "")
    ]
