"""Checks for programs and rights that a test needs."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

SEARCH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"


def needs(*programs: str) -> None:
    """Skip the test if one of `programs` is not installed; in CI it fails.

    A program is a name, or the path of a file that belongs to it.
    """
    missing = [program for program in programs if not _is_there(program)]
    if not missing:
        return
    cannot_run(
        f"not installed: {', '.join(missing)}; `make test` as root installs it, or use your package manager"
    )


def needs_root(why: str) -> None:
    """Skip the test if it is not run by root; in CI it fails."""
    if os.geteuid() != 0:
        cannot_run(f"only root can do this: {why}")


def cannot_run(reason: str) -> NoReturn:
    """Skip the test; in CI it fails."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _is_there(program: str) -> bool:
    return os.path.exists(program) if "/" in program else shutil.which(program, path=SEARCH) is not None
