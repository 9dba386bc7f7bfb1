"""A director whose ring links carry no seals: `python -m tests.bench.plain_links serve -c FILE`.

No release does that. It serves to measure the cost of the seals.
"""

from __future__ import annotations

from collections.abc import Iterator

from director.core.protocol.messages import RingMessage
from director.wire import ring_native


class PlainWriter(ring_native.FrameWriter):
    def seal(self, key: bytes) -> None:
        """Leave the frames without seals."""


class PlainReader(ring_native.FrameReader):
    _proof_comes = _behind_the_proof = False

    def unseal(self, key: bytes) -> None:
        """Accept all frames without seals."""
        self._proof_comes = True

    def feed(self, data: bytes) -> Iterator[list[RingMessage]]:
        for messages in super().feed(data):
            if self._behind_the_proof:
                self.plain = b""  # as if it had been sealed
            self._behind_the_proof = self._proof_comes
            yield messages


if __name__ == "__main__":
    from director.net import ringlink

    ringlink.FrameWriter, ringlink.FrameReader = PlainWriter, PlainReader  # type: ignore[misc]

    from director.cli.main import main

    main()
