"""A director whose ring links can be cut silently: `python -m tests.e2e.cuttable CUTS serve -c FILE`.

While the file CUTS lists addresses, nothing is sent to them or received from them over the ring, and no link
is closed, as when a cable is pulled. The store and everything else works.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from director.net import ringlink


class Cuts:
    """The present content of the file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = 0
        self._addresses: frozenset[str] = frozenset()

    def __contains__(self, address: str) -> bool:
        changed = self._file.stat().st_mtime_ns
        if changed != self._read_at:
            self._read_at = changed
            self._addresses = frozenset(self._file.read_text().split())
        return address in self._addresses


def make_cuttable(cuts: Cuts) -> None:
    """Make all ring links cuttable. Call it before anything else of the director is imported."""

    class CutLink(ringlink.RingLink):
        def data_received(self, data: bytes) -> None:
            if self.remote not in cuts:
                super().data_received(data)

        def _write(self, data: bytes) -> None:
            if self.remote not in cuts:
                super()._write(data)

    ringlink.RingLink = CutLink  # type: ignore[misc]

    from director.core.protocol.effects import Dial
    from director.core.protocol.events import DialFailed
    from director.core.protocol.order import split_member
    from director.service import ringsockets

    dial = ringsockets.RingSockets.dial

    async def dial_unless_cut(sockets: ringsockets.RingSockets, effect: Dial) -> None:
        if split_member(effect.member)[0] not in cuts:
            await dial(sockets, effect)
            return
        await anyio.sleep(ringsockets.CONNECT_TIMEOUT)
        sockets._handle(DialFailed(effect.member, "no answer", effect.leftwards))

    ringsockets.RingSockets.dial = dial_unless_cut  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    make_cuttable(Cuts(Path(sys.argv.pop(1))))

    from director.cli.main import main

    main()
