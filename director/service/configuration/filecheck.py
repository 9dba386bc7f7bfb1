"""Checks a configuration file without a director, also as the user of a director's unit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from director.errors import ConfigErrors
from director.service.configuration.accounts import Account, run_as
from director.service.configuration.config import load
from director.service.configuration.tomlfile import LET_DIRECTOR_READ, LET_READ

DENIED = "Permission denied"


class CheckedFile(msgspec.Struct, frozen=True):
    """What is wrong with a file; problems keep a director from starting."""

    problems: list[str]
    warnings: list[str]


def check_file(path: str, environ: Mapping[str, str]) -> CheckedFile:
    """As this process sees it."""
    try:
        config = load(path, environ)
    except ConfigErrors as error:
        return CheckedFile([str(problem) for problem in error.problems], [])
    return CheckedFile(
        [],
        [
            *config.warnings,
            *(f"{path}: {text}; starting without it" for text in config.unresolved),
        ],
    )


def check_file_as(account: Account, path: str, environ: Mapping[str, str]) -> CheckedFile:
    """As a director sees it that runs as this user. Raises NotAllowed."""
    check_file(path, environ)  # what it takes is imported now: the user may not read it
    found = run_as(account, partial(check_file, path, environ), CheckedFile)
    return CheckedFile([_with_advice(text, account.name) for text in found.problems], found.warnings)


def _with_advice(problem: str, user: str) -> str:
    """A problem with what to do for this user, said once."""
    if DENIED not in problem:
        return problem
    what = problem.removesuffix(LET_DIRECTOR_READ).removesuffix(LET_READ)
    return f"{what}; {user} must be able to read it: chown {user} FILE, or chgrp and chmod g+r"
