"""The owner of a SQLite file.

A program that runs as another system user usually cannot use the file, and should not be allowed to.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def advice_for_another_user(path: Path) -> str:
    """Return advice if the file, or the nearest folder that can be examined, belongs to another system
    user; else an empty text."""
    me, owner = os.geteuid(), _owner(path)
    if owner is None or owner == me:
        return ""
    user = _name(me)
    return (
        f"it belongs to {_name(owner)}, and this program runs as {user}: run it as {_name(owner)} or root; if"
        f" the director itself runs as {user}, chown the file and its folder to that user"
    )


def _owner(path: Path) -> int | None:
    for place in (path, *path.absolute().parents):
        try:
            return place.stat().st_uid
        except PermissionError:
            continue  # the folder above can be examined
        except OSError:
            return None
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
