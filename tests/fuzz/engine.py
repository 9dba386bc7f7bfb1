"""Makes cases from seeds, checks them, and shortens a case that fails."""

from __future__ import annotations

import random
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Case = list[Any]
"""The input of a target: bytes, texts, numbers and tuples, each of which can be left out."""
ATTEMPTS = 3000
"""The most smaller cases that are tried."""


class Target(NamedTuple):
    """A part of the program that must withstand any case."""

    name: str
    make: Callable[[random.Random], Case]
    """Makes a case from a seed."""
    check: Callable[[Case], None]
    """Raises if the program does not withstand the case: a failed assertion, or the exception of the
    program."""


class Failure(NamedTuple):
    """A case that a target did not withstand, and how to repeat it."""

    target: str
    seed: int
    case: Case
    error: str

    def __str__(self) -> str:
        return (
            f"{self.target} fails with seed {self.seed}\n"
            f"smallest input: {_shown(self.case)}\n{_shown(self.error)}"
            f"again: python -m tests.fuzz --target {self.target} --seed {self.seed} --count 1"
        )


def _shown(value: object) -> str:
    """Return a value for display: long runs of a character are counted."""
    text = value if isinstance(value, str) else repr(value)
    return re.sub(r"([0-9A-Za-z])\1{40,}", lambda run: f"{run[1]}<{len(run[0])} times>", text)


def run(target: Target, seeds: Iterator[int] | range) -> Failure | None:
    """Return the first failure, with its case shortened; None: all cases passed."""
    for seed in seeds:
        case = target.make(random.Random(f"{target.name} {seed}"))
        error = failing(target, case)
        if error is not None:
            small = smallest(target, case, type(error))
            last = failing(target, small) or error
            return Failure(target.name, seed, small, "".join(traceback.format_exception(last)))
    return None


def failing(target: Target, case: Case) -> Exception | None:
    try:
        target.check(list(case))
    except Exception as error:
        return error
    return None


def smallest(target: Target, case: Case, kind: type[Exception]) -> Case:
    """Return a case that fails with an exception of the same type, and from which nothing more can be
    removed."""
    attempts = ATTEMPTS
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(case):
            if not attempts:
                return case
            attempts -= 1
            if type(failing(target, candidate)) is kind:
                case, smaller = candidate, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Yield cases a little smaller than this one, the smallest first."""
    for part in _without_a_part(case):
        yield list(part)
    for place, item in enumerate(case):
        for less in _less(item):
            yield [*case[:place], less, *case[place + 1 :]]


def _without_a_part(items: Any) -> Iterator[Any]:
    size = len(items)
    while size:
        for start in range(0, len(items), size):
            if size < len(items):
                yield items[:start] + items[start + size :]
        size //= 2


def _less(item: Any) -> Iterator[Any]:
    match item:
        case bytes() | str() | list():
            yield from _without_a_part(item)
            if len(item) == 1:
                yield item[:0]
        case bool():
            if item:
                yield False
        case int():
            yield from {0, item // 2, item - 1 if item > 0 else 0} - {item}
        case tuple():
            for place, value in enumerate(item):
                if place:  # the first value selects the action
                    for less in _less(value):
                        yield (*item[:place], less, *item[place + 1 :])
