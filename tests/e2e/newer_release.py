"""A director as the next release may be: `python -m tests.e2e.newer_release NEWEST OLDEST serve -c FILE`.

It speaks the ring versions OLDEST to NEWEST, and ends every message, and every row in one, with a field that
this release does not know.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from director.core import messages

UNKNOWN_FIELD = {"of": ["the", "next", "release"], "number": 2}
ROWS_OF = {5, 17}
"""Tags of the messages whose first field is a list of rows: hosts, members."""


def speak(newest: int, oldest: int) -> None:
    """Make this process the newer release. To be called before anything else of the director is imported."""
    messages.RING_VERSION, messages.OLDEST_RING_VERSION = newest, oldest

    from director.wire import ring_native

    encode_as_now = ring_native.encode

    def encode(batch: Sequence[messages.RingMessage]) -> bytes:
        frame = encode_as_now(batch)
        body = msgspec.msgpack.encode([longer(message) for message in msgspec.msgpack.decode(frame[4:])])
        return len(body).to_bytes(4) + body

    ring_native.encode = encode


def longer(message: list[Any]) -> list[Any]:
    tag, *fields = message
    if tag in ROWS_OF:
        fields[0] = [[*row, UNKNOWN_FIELD] for row in fields[0]]
    return [tag, *fields, UNKNOWN_FIELD]


if __name__ == "__main__":
    speak(int(sys.argv.pop(1)), int(sys.argv.pop(1)))

    from director.cli.main import main

    main()
