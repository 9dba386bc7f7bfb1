"""Each target with fixed seeds; `make fuzz` goes on with new ones."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fuzz import sockets
from tests.fuzz.engine import Case, Target, run, smallest
from tests.fuzz.targets import TARGETS, count


@pytest.fixture(scope="module", autouse=True)
def one_director() -> Iterator[None]:
    """The director of the targets on sockets, if one was started, ends with them."""
    yield
    sockets.stop()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_withstands_random_input(name: str) -> None:
    failure = run(TARGETS[name], range(count(name)))
    assert failure is None, str(failure)


def test_the_director_has_logged_no_internal_error_meanwhile() -> None:
    assert sockets.live().bugs() == 0


# ---- the engine itself


def too_many_sevens(case: Case) -> None:
    if sum(one.count(b"7") for one in case if isinstance(one, bytes)) >= 3:
        raise ZeroDivisionError("sevens")


SEVENS = Target("sevens", lambda rng: [rng.randbytes(400), 5, "text", rng.randbytes(400)], too_many_sevens)


def test_a_failure_names_its_seed_and_the_smallest_input() -> None:
    failure = run(SEVENS, range(20))
    assert failure is not None
    assert b"".join(one for one in failure.case if isinstance(one, bytes)) == b"777"
    assert f"--target sevens --seed {failure.seed} --count 1" in str(failure)
    assert "ZeroDivisionError: sevens" in str(failure)
    assert run(SEVENS, range(failure.seed, failure.seed + 1)) == failure


def test_a_case_is_made_smaller_only_while_it_fails_in_the_same_way() -> None:
    def check(case: Case) -> None:
        if not case:
            raise ValueError("nothing left")
        if b"x" in case:
            raise ZeroDivisionError

    assert smallest(Target("x", lambda _: [], check), [b"a", b"x", b"b"], ZeroDivisionError) == [b"x"]


def test_a_seed_makes_the_same_case_every_time() -> None:
    for target in TARGETS.values():
        one, other = (target.make(random.Random("7")) for _ in range(2))
        assert repr(one) == repr(other), target.name
