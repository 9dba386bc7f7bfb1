"""Whose data a shared store holds. Two clusters on one prefix would mix their users and hosts: the second one
is refused, before it has written anything.

The document `cluster` says it: a digest of the ring's secret, and how names are hashed. Each lease says the
digest again. While the ring's secret is being changed a director has two: it writes the digest of the first
one and accepts both. A secret may also be changed at once: where no director with the former one lives, the
newcomer takes the data over.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from director.core.ring.link import Identity
from director.stored.damage import is_sound, with_its_version
from director.stored.storecalls import Procedure, ReadDocument, ReadLeases, SetAside, SwapDocument
from state.base import EMPTY_VERSION, Document, Lease, StoreRefused, Swapped

CLUSTER = "cluster"
"""Name of the document, and of the field in a lease's `info`."""
DIGEST = 16
"""Hexadecimal digits: enough to tell clusters apart, and nothing to find the secret by."""
LAPSED = 0.1
"""Seconds after its end when a lease is surely not listed any more."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """What all directors of a cluster have in common, and no others."""

    ring: str
    """Digest of the ring's secret; of the place, where a director has none."""
    username_hash: str
    """How names become keys. Under another hash every stored record is somebody else's."""


class OtherCluster(StoreRefused):
    """The store is another cluster's. Who starts must not; who runs serves on as if the store was away."""

    def __init__(self, store: str, advice: str, lapses: float) -> None:
        """lapses: seconds after which those who keep it are dead, or have said otherwise; 0: none do."""
        super().__init__(store, "open", "another cluster", advice)
        self.lapses = lapses


def cluster_of(identity: Identity, place: str) -> Cluster:
    """place: what tells a director without a ring's secret from any other; nothing where there is one."""
    key = identity.secret or place.encode()
    digest = hmac.new(key, b"director: whose store is this", hashlib.sha256).hexdigest()[:DIGEST]
    return Cluster(ring=digest, username_hash=identity.username_hash)


class Ours:
    """What is written into the store, and whose data is accepted."""

    def __init__(self, identity: Identity, place: str) -> None:
        """place: as in `cluster_of`."""
        self._place = place
        self._former: frozenset[str] = frozenset()
        """Digests of secrets that were accepted earlier. A store that was away may still say one."""
        self._set(identity)

    def change(self, identity: Identity) -> None:
        """The secrets are others now."""
        self._former |= self.rings
        self._set(identity)

    def _set(self, identity: Identity) -> None:
        self.written = cluster_of(identity, self._place)
        """What this director writes."""
        self.rings = frozenset(
            cluster_of(msgspec.structs.replace(identity, secret=secret), self._place).ring
            for secret in identity.secrets
        )
        """The digests that a director of this cluster may say."""

    def wrote(self, stored: Cluster) -> bool:
        """Whether a director of this cluster may have written this, now or since this one has started."""
        return stored.username_hash == self.written.username_hash and stored.ring in self.rings | self._former


def encode(cluster: Cluster) -> bytes:
    """The document: JSON, for people to read."""
    return msgspec.json.encode(cluster)


def decode(data: bytes) -> Cluster | None:
    """None where it is none: whoever damaged it has told us nothing."""
    try:
        return msgspec.json.decode(data, type=Cluster)
    except msgspec.DecodeError:
        return None


def strangers(ours: Ours, stored: Cluster | None, leases: Iterable[Lease]) -> list[Lease]:
    """The leases of another cluster. One that does not say its cluster is of the one the store belongs to."""
    silent = ours.written.ring if stored is None or ours.wrote(stored) else stored.ring
    return [lease for lease in leases if lease.info.get(CLUSTER, silent) not in ours.rings]


def claim(url: str, ours: Ours, *, running: bool) -> Procedure[None]:
    """Make sure that this cluster may write to the store, and let the store say so.

    Args:
        url: of the store, for messages.
        ours: what this director writes into the store about its cluster.
        running: this director has served from another store just now, so a store of another cluster is not
            taken over. Else it is, where no director of the other cluster holds a lease.

    Raises:
        OtherCluster: the store is another cluster's.
        StoreError: as the store raises it.
    """
    mine = ours.written
    while True:
        document: Document | None = yield ReadDocument(CLUSTER)
        stored = None if document is None or not is_sound(document) else decode(document.data)
        if stored is not None and stored.username_hash != mine.username_hash:
            raise _hashed_otherwise(url, stored, mine)
        others = strangers(ours, stored, (yield ReadLeases()))
        if others or (running and stored is not None and not ours.wrote(stored)):
            raise _of_another(url, others)
        if stored == mine:
            return
        version = EMPTY_VERSION if document is None else document.version
        if document is not None and stored is None:
            yield SetAside(CLUSTER, document.data)
            version = (yield from with_its_version(CLUSTER, document)).version
        if isinstance((yield SwapDocument(CLUSTER, version, encode(mine))), Swapped):
            return


def _hashed_otherwise(url: str, stored: Cluster, mine: Cluster) -> OtherCluster:
    advice = (
        f"its users were hashed with users.username_hash = {stored.username_hash}, here it is"
        f" {mine.username_hash}, which would scatter them: write the former one, or name another prefix"
    )
    return OtherCluster(url, advice, 0.0)


def _of_another(url: str, others: list[Lease]) -> OtherCluster:
    alive = ", ".join(lease.member for lease in others)
    advice = (
        "its directors have another ring.secret_file"
        + (f", and {alive} lives" if alive else "")
        + ": give each cluster a prefix of its own, ?prefix=NAME:; where the secret was changed on purpose,"
        " stop all directors that have the former one, then start"
    )
    return OtherCluster(url, advice, max((lease.remaining + LAPSED for lease in others), default=0.0))
