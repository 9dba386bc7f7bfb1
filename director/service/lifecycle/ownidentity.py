"""The identity of this director: what it shows to its neighbours, from its configuration."""

from __future__ import annotations

from director.core.ring.link import Identity
from director.service.configuration.config import Config
from director.service.lifecycle.reload import backends_digest
from director.types import MemberId
from director.version import VERSION

STANDALONE = MemberId("127.0.0.1:9090")
"""The member id of a director without a ring."""


def ring_secrets(config: Config) -> tuple[bytes, bytes]:
    """Return the ring secret that is offered, and the second that is accepted; empty if not set."""
    first, second = (*config.ring.secrets, b"", b"")[:2]
    return first, second


def own_identity(config: Config, incarnation: int, name: str) -> Identity:
    """Return what this director shows to its neighbours.

    Args:
        config: the configuration.
        incarnation: of this run.
        name: its name in `ring.servers`; empty: the file has its address.
    """
    secret, second_secret = ring_secrets(config)
    return Identity(
        member=config.ring.listen.member if config.ring.listen else STANDALONE,
        incarnation=incarnation,
        username_hash=f"{config.users.username_hash} {config.users.master_user_separator[:1]}".strip(),
        expire=int(config.users.expire),
        secret=secret,
        second_secret=second_secret,
        release=VERSION,
        backends=backends_digest(config),
        ping_interval=config.ring.ping_interval,
        ping_timeout=config.ring.ping_timeout,
        max_clock_skew=config.ring.max_clock_skew,
        name=name,
    )
