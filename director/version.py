"""The version of this program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The version that is installed."""
    try:
        return version("mail-director")
    except PackageNotFoundError:
        return "unknown, not installed"


VERSION = release()
