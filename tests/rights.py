"""The rights of a Redis user that the documentation tells operators to give."""

from __future__ import annotations

import re
from pathlib import Path

PASSWORD = "correct-horse-battery"

_LINE = re.compile(r"^    ACL SETUSER director (?:on >PASSWORD )?(.*)$", re.MULTILINE)
_TEXT = (Path(__file__).parent.parent / "docs" / "state-redis.md").read_text("utf-8")

(DEFAULT,) = re.findall(r"^ +user default (.*)$", _TEXT, re.MULTILINE)
SERVER, _SELECT, _ROLE, _NODE, SENTINEL = _LINE.findall(_TEXT)
DATABASE = f"{SERVER} {_SELECT}"
BEHIND_SENTINEL = f"{SERVER} {_ROLE}"
NODE = f"{SERVER} {_NODE}"
