"""Secrets, which nothing prints."""

from __future__ import annotations


class Secret(bytes):
    """The content of a secret file. Prints as `***`, so that no log line, traceback or Struct shows it."""

    file = ""
    """The path it was read from."""

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
