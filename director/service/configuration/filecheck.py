"""Checks a configuration file without a director, on request as the user of the director's unit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec

from director.errors import ConfigErrors
from director.service.configuration.accounts import Account, run_as
from director.service.configuration.configfile import load
from director.service.configuration.tomlfile import LET_DIRECTOR_READ, LET_READ

DENIED = "Permission denied"


class CheckedFile(msgspec.Struct, frozen=True):
    """The result of a check. Problems keep a director from starting; warnings do not."""

    problems: list[str]
    warnings: list[str]


def check_file(path: str, environ: Mapping[str, str]) -> CheckedFile:
    """Check the file as the user of this process."""
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
    """Check the file as a director that runs as this user would. Raises NotAllowed."""
    check_file(path, environ)  # loads all modules now: the other user may not have the right to read them
    found = run_as(account, partial(check_file, path, environ), CheckedFile)
    return CheckedFile([_with_advice(text, account.name) for text in found.problems], found.warnings)


def _with_advice(problem: str, user: str) -> str:
    """Return the problem, with advice for this user in place of the general advice."""
    if DENIED not in problem:
        return problem
    what = problem.removesuffix(LET_DIRECTOR_READ).removesuffix(LET_READ)
    return f"{what}; {user} must be able to read it: chown {user} FILE, or chgrp and chmod g+r"
