"""The hot path in plain Python and compiled, for tests that both have to pass."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from director.core.placement import assign, names, users
from director.wire import auth

NAMES = ["pure", "compiled"]


class HotPath(NamedTuple):
    UserTable: type[users.UserTable]
    Assigner: type[assign.Assigner]
    NameTable: type[names.NameTable]
    rewrite: Callable[[assign.Assigner, bytes, bool], tuple[bytes, list[auth.HeldRequest]]]


PURE = HotPath(users.UserTable, assign.Assigner, names.NameTable, auth.rewrite)


def compiled() -> HotPath:
    """Return the compiled hot path. If it is not built the test is skipped, and in CI it fails."""
    try:
        fast = importlib.import_module("director.wire._fast")
        fast_names = importlib.import_module("director.wire._names")
    except ImportError as exc:
        reason = f"{exc}; build it with `make install` (needs a C compiler and the headers of Python)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return HotPath(fast.UserTable, fast.Assigner, fast_names.NameTable, fast.rewrite)


def hot_path(name: str) -> HotPath:
    return PURE if name == "pure" else compiled()
