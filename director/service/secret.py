"""Secrets, which are never printed."""

from __future__ import annotations


class Secret(bytes):
    """The content of a secret file. Its text is `***`, so that no log line, traceback or Struct shows it."""

    file = ""
    """The path of the file that it was read from."""

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
