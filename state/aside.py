"""Damaged documents: what was stored is kept under another name before anything is written over it."""

from __future__ import annotations

import re
import time

from state.base import EMPTY_VERSION, StateStore, version_of

SET_ASIDE = 10
"""Damaged forms of a document that are kept, the latest."""
DAMAGED = ".damaged-"

_TIMED = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{16}")


def is_set_aside(name: str) -> bool:
    """Whether the document of this name is the damaged form of another one."""
    return DAMAGED in name


async def set_aside(store: StateStore, name: str, data: bytes) -> str:
    """Keep data beside a document, once however often this is called. Beyond SET_ASIDE the oldest is removed.

    Args:
        store: where the document is.
        name: of the document.
        data: what to keep.

    Returns:
        The name under which it is kept.

    Raises:
        StoreError: the store did not take it.
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
