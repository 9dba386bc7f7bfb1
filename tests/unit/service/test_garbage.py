"""Full collections of garbage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from director.service.lifecycle import garbage


class Knot:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def old_garbage() -> weakref.ref[Knot]:
    """Objects that only a full collection finds."""
    knot = Knot()
    gc.collect(1)
    gc.collect(1)
    return weakref.ref(knot)


def many_young_objects() -> None:
    """Enough for some full collections by Python's own rule."""
    kept = []
    for _ in range(200_000):
        kept.append([])  # one by one


@pytest.mark.shows("A-41")
def test_no_full_collection_begins_in_the_middle_of_other_work() -> None:
    garbage.begin()
    before = gc.get_stats()[2]["collections"]
    many_young_objects()
    assert gc.get_stats()[2]["collections"] == before


@pytest.mark.shows("A-41")
def test_a_full_collection_is_made_when_it_is_due_and_finds_what_is_left() -> None:
    garbage.begin()
    found = old_garbage()
    assert garbage.collect_if_due() == 0.0, "nothing is due yet"
    assert found() is not None
    many_young_objects()
    assert found() is not None
    assert garbage.collect_if_due() > 0.0
    assert found() is None
    assert garbage.collect_if_due() == 0.0
