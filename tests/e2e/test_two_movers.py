"""Two operators at once, for a short while; `two_movers.py` does it more often."""

from __future__ import annotations

import random

from tests.e2e.two_movers import USERS, mail, move_all_twice
from tests.needs import needs


def test_of_two_operators_at_once_one_wins_and_both_get_true_answers() -> None:
    needs("dovecot", "doveadm")
    with mail() as cluster:
        rounds = [move_all_twice(cluster, random.Random(seed)) for seed in range(2)]
    assert [round_.differences for round_ in rounds] == [[], []]
    assert [sum(answer.won for of_one in round_.answers for answer in of_one) for round_ in rounds] == [
        len(USERS)
    ] * 2
