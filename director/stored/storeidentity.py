"""The identity of a shared store: which cluster's data it holds.

Two clusters with one prefix would mix their users and hosts, so the second one is refused before it writes
anything.

The document `cluster` holds a digest of the ring's secret, and how names are hashed. Each lease holds the
digest too. While the secret is being changed, a director has two secrets: it writes the digest of the first,
and accepts both. A secret may also be changed at once: if no director with the former secret holds a lease, a
director with the new one takes the data over.
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
"""The name of the document, and of the field in a lease's `info`."""
DIGEST = 16
"""Hexadecimal digits: enough to distinguish clusters, too few to find the secret."""
LAPSED = 0.1
"""Seconds after its expiry from which on a lease is certainly no longer listed."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The values that all directors of a cluster have in common, and no others have."""

    ring: str
    """Digest of the ring's secret; without a secret, of the place."""
    username_hash: str
    """How names become keys. Under another setting every stored record would belong to another user."""


class OtherCluster(StoreRefused):
    """The store belongs to another cluster.

    A director that starts must not; a running director continues as with an unreachable store.
    """

    def __init__(self, store: str, advice: str, lapses: float) -> None:
        """Make the error.

        Args:
            store: URL of the store.
            advice: what to do.
            lapses: seconds after which the directors that keep the store hold no leases any more, or have
                renewed them; 0: no director keeps it.
        """
        super().__init__(store, "open", "another cluster", advice)
        self.lapses = lapses


def cluster_of(identity: Identity, place: str) -> Cluster:
    """Return the cluster of a director.

    Args:
        identity: of the director.
        place: distinguishes a director without a secret from all others; unused if there is a secret.
    """
    key = identity.secret or place.encode()
    digest = hmac.new(key, b"director: whose store is this", hashlib.sha256).hexdigest()[:DIGEST]
    return Cluster(ring=digest, username_hash=identity.username_hash)


class Ours:
    """The cluster that this director writes into the store, and the clusters whose data it accepts."""

    def __init__(self, identity: Identity, place: str) -> None:
        """Begin with the director's present secrets.

        Args:
            identity: of the director.
            place: as in `cluster_of`.
        """
        self._place = place
        self._former: frozenset[str] = frozenset()
        """Digests of secrets that were accepted earlier. A store that was unreachable may still hold one."""
        self._set(identity)

    def change(self, identity: Identity) -> None:
        """Take over changed secrets."""
        self._former |= self.rings
        self._set(identity)

    def _set(self, identity: Identity) -> None:
        self.written = cluster_of(identity, self._place)
        """The cluster that this director writes."""
        self.rings = frozenset(
            cluster_of(msgspec.structs.replace(identity, secret=secret), self._place).ring
            for secret in identity.secrets
        )
        """The digests that directors of this cluster may write."""

    def wrote(self, stored: Cluster) -> bool:
        """Whether a director of this cluster may have written this, now or since this director started."""
        return stored.username_hash == self.written.username_hash and stored.ring in self.rings | self._former


def encode(cluster: Cluster) -> bytes:
    """Return the document: JSON, so that people can read it."""
    return msgspec.json.encode(cluster)


def decode(data: bytes) -> Cluster | None:
    """Return the cluster that a document names; None: the document is damaged and names none."""
    try:
        return msgspec.json.decode(data, type=Cluster)
    except msgspec.DecodeError:
        return None


def strangers(ours: Ours, stored: Cluster | None, leases: Iterable[Lease]) -> list[Lease]:
    """Return the leases of another cluster. A lease that names no cluster belongs to the store's cluster."""
    silent = ours.written.ring if stored is None or ours.wrote(stored) else stored.ring
    return [lease for lease in leases if lease.info.get(CLUSTER, silent) not in ours.rings]


def claim(url: str, ours: Ours, *, running: bool) -> Procedure[None]:
    """Make sure that this cluster may write to the store, and write that to the store.

    Args:
        url: of the store, for messages.
        ours: the cluster that this director writes.
        running: whether this director has just served from another store. Then a store of another cluster is
            never taken over. Otherwise it is, if no director of the other cluster holds a lease.

    Raises:
        OtherCluster: the store belongs to another cluster.
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
        f" {mine.username_hash}, which would assign them to other hosts:"
        " restore the former setting, or name another prefix"
    )
    return OtherCluster(url, advice, 0.0)


def _of_another(url: str, others: list[Lease]) -> OtherCluster:
    holders = ", ".join(lease.member for lease in others)
    advice = (
        "its directors have another ring.secret_file"
        + (f"; {holders} hold{'s' if len(others) == 1 else ''} a lease" if holders else "")
        + ": give each cluster its own prefix, ?prefix=NAME:; if the secret was changed on purpose,"
        " stop all directors that have the former secret, then start this one"
    )
    return OtherCluster(url, advice, max((lease.remaining + LAPSED for lease in others), default=0.0))
