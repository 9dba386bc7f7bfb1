"""The implementation of the hot path in use: compiled if it was built, else plain Python.

DIRECTOR_PURE_PYTHON=1 selects plain Python. Both implementations keep the contract that is written in
`core.placement` (`users`, `names`, `assign`) and `wire.auth`. Their parts are never mixed.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

_PURE = os.environ.get("DIRECTOR_PURE_PYTHON") == "1"

COMPILED: bool = not _PURE and all(find_spec(f"director.wire.{part}") for part in ("_fast", "_names"))

if COMPILED and not TYPE_CHECKING:
    from director.wire._fast import Assigner, UserTable, rewrite
    from director.wire._names import NameTable
else:
    from director.core.placement.assign import Assigner
    from director.core.placement.names import NameTable
    from director.core.placement.users import UserTable
    from director.wire.auth import rewrite

__all__ = ["COMPILED", "Assigner", "NameTable", "UserTable", "rewrite"]
