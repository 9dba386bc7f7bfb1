"""A director whose dials end at another port: `python -m tests.attacks.rerouted PORT serve -c FILE`.

It stands for a network with an attacker between two directors: the director dials the right address, and a
relay answers.
"""

from __future__ import annotations

import sys

from director.types import Address, MemberId


def reroute(port: int) -> None:
    """Make every dial of the ring go to `port` of the dialled address."""
    from director.service import ringsockets

    split = ringsockets.split_member

    def rerouted(member: MemberId) -> tuple[Address, int]:
        return split(member)[0], port

    ringsockets.split_member = rerouted


if __name__ == "__main__":
    reroute(int(sys.argv.pop(1)))

    from director.cli.main import main

    main()
