"""The proofs and keys of one link, derived from the ring's secret and from both greetings.

    transcript = SHA-256 of: label, both greetings as they were on the line, certificates of TLS
    root       = HMAC-SHA256(secret, transcript)
    proofs     = HMAC-SHA256(root, "proof of the dialler" / "... acceptor")
    keys       = HMAC-SHA256(root, "frames of the dialler" / "... acceptor")

While the secret is being changed a director has two. Each end makes its proof and the key of its own frames
with its first secret; which secret the other end has used, its proof tells.

A greeting holds a version, a name, a direction and a fresh nonce: nothing of one link fits another link, and
what one end says never fits as the answer of the other end.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

import msgspec

LABEL = b"director: ring link, version 2"


class Keys(msgspec.Struct, frozen=True):
    """What one end of a link seals its frames with, and opens the other end's with: 32 bytes each."""

    sending: bytes
    receiving: bytes

    def __repr__(self) -> str:
        return "Keys(***)"

    __str__ = __repr__


class Handshake:
    """What both ends of a link can derive once each has the other's greeting."""

    def __init__(
        self,
        secrets: Sequence[bytes],
        dialler: bytes,
        acceptor: bytes,
        certificates: bytes,
        *,
        dialled: bool,
    ) -> None:
        """
        Args:
            secrets: the first is offered, all are accepted; at least one.
            dialler, acceptor: the frames with their greetings, as they were sent.
            certificates: with TLS: SHA-256 of the dialler's, then of the acceptor's; without: empty.
            dialled: whether this end is the dialler.
        """
        transcript = sha256()
        for part in (LABEL, dialler, acceptor, certificates):
            transcript.update(len(part).to_bytes(8))
            transcript.update(part)
        self._roots = [hmac.digest(secret, transcript.digest(), "sha256") for secret in secrets]
        self._dialled = dialled

    def proof(self) -> bytes:
        """What shows the other end that this one has the first secret."""
        return self._derive(0, b"proof of the ", dialler=self._dialled)

    def secret_of(self, proof: bytes) -> int | None:
        """Which of the secrets the other end has proved to have, from 0; None: it is not its proof."""
        for number in range(len(self._roots)):
            if hmac.compare_digest(proof, self._derive(number, b"proof of the ", dialler=not self._dialled)):
                return number
        return None

    def keys(self) -> Keys:
        """With the first secret for both directions, until the other end's proof is known."""
        return Keys(
            sending=self._derive(0, b"frames of the ", dialler=self._dialled),
            receiving=self.receiving(0),
        )

    def receiving(self, number: int) -> bytes:
        """The key of the other end's frames, where its proof is made with the secret of this number."""
        return self._derive(number, b"frames of the ", dialler=not self._dialled)

    def _derive(self, number: int, use: bytes, *, dialler: bool) -> bytes:
        return hmac.digest(self._roots[number], use + (b"dialler" if dialler else b"acceptor"), "sha256")
