"""Keeps a copy of a damaged document under another name before the document is overwritten."""

from __future__ import annotations

import re
import time

from state.base import EMPTY_VERSION, StateStore, version_of

SET_ASIDE = 10
"""The number of copies that are kept of each document: the newest."""
DAMAGED = ".damaged-"

_TIMED = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{16}")


def is_set_aside(name: str) -> bool:
    """Whether `name` is the name of a damaged copy of a document."""
    return DAMAGED in name


async def set_aside(store: StateStore, name: str, data: bytes) -> str:
    """Store `data` as a damaged copy of a document, unless the same data is stored as one already.

    If there are more than SET_ASIDE copies then, the oldest is removed.

    Args:
        store: the store that holds the document.
        name: the name of the document.
        data: the damaged content.

    Returns:
        The name of the copy.

    Raises:
        StoreError: the store did not take the copy.
    """
    version = version_of(data).hex()
    kept = sorted(
        (one for one in await store.documents() if one.startswith(name + DAMAGED)),
        key=lambda one: (_TIMED.fullmatch(one.removeprefix(name + DAMAGED)) is not None, one),
    )
    for one in kept:
        if one.endswith(version):
            return one
    aside = f"{name}{DAMAGED}{_moment()}-{version}"
    await store.swap_document(aside, EMPTY_VERSION, data)
    for one in kept[: max(0, len(kept) + 1 - SET_ASIDE)]:
        document = await store.read_document(one)
        if document is not None:
            await store.swap_document(one, document.version, b"")
    return aside


def _moment() -> str:
    return time.strftime("%Y%m%dt%H%M%Sz", time.gmtime())
