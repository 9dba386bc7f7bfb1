"""Walks through a table that changes meanwhile."""

from __future__ import annotations

from director.core.moves.walk import Walk


def test_a_walk_comes_to_every_key_once_and_ends() -> None:
    walk = Walk(dict.fromkeys(range(5)))
    walk.begin()
    assert [walk.some(2), walk.some(2), walk.some(2)] == [[0, 1], [2, 3], [4]]
    assert not walk.under_way
    assert walk.some(2) == []


def test_a_key_that_is_gone_is_left_out_and_one_that_came_later_is_for_the_next_walk() -> None:
    table: dict[int, None] = dict.fromkeys(range(4))
    walk = Walk(table)
    walk.begin()
    assert walk.some(2) == [0, 1]
    del table[2]
    table[9] = None
    assert walk.some(2) == [3]
    walk.begin()
    assert walk.some(9) == [0, 1, 3, 9]


def test_a_walk_that_is_begun_while_it_goes_on_goes_on_and_comes_to_all_once_more() -> None:
    walk = Walk(dict.fromkeys(range(3)))
    walk.begin()
    walk.some(2)
    walk.begin()
    walk.begin()
    assert [walk.some(2), walk.some(2), walk.some(2)] == [[2], [0, 1], [2]]
    assert not walk.under_way
