"""Each target with fixed seeds; `make fuzz` continues with new seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fuzz import sockets
from tests.fuzz.engine import Case, Target, run, smallest
from tests.fuzz.targets import TARGETS, count


@pytest.fixture(scope="module", autouse=True)
def one_director() -> Iterator[None]:
    """End the director of the socket targets after the tests, if one was started."""
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
    if sum(part.count(b"7") for part in case if isinstance(part, bytes)) >= 3:
        raise ZeroDivisionError("sevens")


SEVENS = Target("sevens", lambda rng: [rng.randbytes(400), 5, "text", rng.randbytes(400)], too_many_sevens)


def test_a_failure_names_its_seed_and_the_smallest_input() -> None:
    failure = run(SEVENS, range(20))
    assert failure is not None
    assert b"".join(part for part in failure.case if isinstance(part, bytes)) == b"777"
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
        first, second = (target.make(random.Random("7")) for _ in range(2))
        assert repr(first) == repr(second), target.name
