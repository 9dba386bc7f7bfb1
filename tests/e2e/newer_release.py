"""A director as the next release may be: `python -m tests.e2e.newer_release NEWEST OLDEST serve -c FILE`.

It uses the ring versions OLDEST to NEWEST, and adds a field that this release does not know to every message,
and to every row in a message.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from director.core.protocol import messages

UNKNOWN_FIELD = {"of": ["the", "next", "release"], "number": 2}
ROWS_OF = {5, 17}
"""Tags of the messages whose first field is a list of rows: hosts, members."""


class NewerHello(messages.Hello, frozen=True, array_like=True, tag=1):
    """A greeting with a new field.

    The proofs cover a greeting as it is sent, so the field belongs to the message itself.
    """

    added: Any = msgspec.field(default_factory=lambda: UNKNOWN_FIELD)


class NewerEncoder:
    """Encodes as `msgspec.msgpack.Encoder` does, with more fields."""

    def encode(self, batch: Sequence[messages.RingMessage]) -> bytes:
        encoded = msgspec.msgpack.decode(msgspec.msgpack.encode(batch))
        greetings = [isinstance(message, NewerHello) for message in batch]
        return msgspec.msgpack.encode(
            [
                fields if all_of_it else longer(fields)
                for fields, all_of_it in zip(encoded, greetings, strict=True)
            ]
        )


def speak(newest: int, oldest: int) -> None:
    """Make this process the newer release. Call it before anything else of the director is imported."""
    messages.RING_VERSION, messages.OLDEST_RING_VERSION = newest, oldest

    from director.core.ring import ring
    from director.core.ring.link import Neighbour
    from director.wire import ring_native

    class NewerNeighbour(Neighbour):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self._hello = NewerHello(*msgspec.structs.astuple(self._hello))
            self._greeting = msgspec.msgpack.encode([self._hello])

    ring.Neighbour = NewerNeighbour  # type: ignore[misc]
    ring_native._encoder = NewerEncoder()  # type: ignore[assignment]


def longer(message: list[Any]) -> list[Any]:
    tag, *fields = message
    if tag in ROWS_OF:
        fields[0] = [[*row, UNKNOWN_FIELD] for row in fields[0]]
    return [tag, *fields, UNKNOWN_FIELD]


if __name__ == "__main__":
    speak(int(sys.argv.pop(1)), int(sys.argv.pop(1)))

    from director.cli.main import main

    main()
