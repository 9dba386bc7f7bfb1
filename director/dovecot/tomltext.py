"""Lines of a director.toml."""

from __future__ import annotations

import re
from collections.abc import Sequence

WIDTH = 70
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def text(value: str) -> str:
    """A string, quoted."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", escaped) + '"'


def array(key: str, entries: Sequence[str]) -> list[str]:
    """A setting with several strings, on a line or on several."""
    if sum(map(len, entries)) < WIDTH:
        return [f"{key} = [{', '.join(map(text, entries))}]"]
    return [f"{key} = [", *(f"    {text(entry)}," for entry in entries), "]"]


def comment(line: str) -> str:
    """A comment; TOML allows no control characters in one."""
    return f"# {_CONTROL.sub(' ', line)}".rstrip()


def endpoint(address: str, port: int) -> str:
    """`10.0.0.1:9090`, `[2001:db8::1]:9090`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
