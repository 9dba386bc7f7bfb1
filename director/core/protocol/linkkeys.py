"""The proofs and keys of one link, derived from the ring's secret and both greetings.

    transcript = SHA-256 of: label, both greetings as they were on the line, certificates of TLS
    root       = HMAC-SHA256(secret, transcript)
    proofs     = HMAC-SHA256(root, "proof of the dialler" / "... acceptor")
    keys       = HMAC-SHA256(root, "frames of the dialler" / "... acceptor")

While the secret is being changed, a director has two secrets. Each end makes its proof, and the key of its
own frames, with its first secret. Its proof tells the other end which secret that is.

A greeting holds a version, a name, a direction and a fresh nonce. So a proof of one link fits no other link,
and the proof of one end never fits as the proof of the other end.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

import msgspec

LABEL = b"director: ring link, version 2"


class Keys(msgspec.Struct, frozen=True):
    """The keys of one end of a link, 32 bytes each: it seals its frames with one, and opens the other end's
    frames with the other."""

    sending: bytes
    receiving: bytes

    def __repr__(self) -> str:
        return "Keys(***)"

    __str__ = __repr__


class Handshake:
    """The proofs and keys of a link. Both ends can derive them once each has the other's greeting."""

    def __init__(
        self,
        secrets: Sequence[bytes],
        dialler: bytes,
        acceptor: bytes,
        certificates: bytes,
        *,
        dialled: bool,
    ) -> None:
        """Derive the roots from the secrets and the greetings.

        Args:
            secrets: the accepted secrets, at least one. The first is offered.
            dialler: the dialler's greeting, a frame as it was sent.
            acceptor: the acceptor's greeting, likewise.
            certificates: SHA-256 of the dialler's certificate, then of the acceptor's; without TLS: empty.
            dialled: whether this end is the dialler.
        """
        transcript = sha256()
        for part in (LABEL, dialler, acceptor, certificates):
            transcript.update(len(part).to_bytes(8))
            transcript.update(part)
        self._roots = [hmac.digest(secret, transcript.digest(), "sha256") for secret in secrets]
        self._dialled = dialled

    def proof(self) -> bytes:
        """Return the proof that this end has the first secret."""
        return self._derive(0, b"proof of the ", dialler=self._dialled)

    def secret_of(self, proof: bytes) -> int | None:
        """Return the number, from 0, of the secret that the other end's proof was made with; None: the proof
        is wrong."""
        for number in range(len(self._roots)):
            if hmac.compare_digest(proof, self._derive(number, b"proof of the ", dialler=not self._dialled)):
                return number
        return None

    def keys(self) -> Keys:
        """Return the keys for the first secret.

        They hold in both directions until the other end's proof is known.
        """
        return Keys(
            sending=self._derive(0, b"frames of the ", dialler=self._dialled),
            receiving=self.receiving(0),
        )

    def receiving(self, number: int) -> bytes:
        """Return the key of the other end's frames if its proof was made with the secret of this number."""
        return self._derive(number, b"frames of the ", dialler=not self._dialled)

    def _derive(self, number: int, use: bytes, *, dialler: bool) -> bytes:
        return hmac.digest(self._roots[number], use + (b"dialler" if dialler else b"acceptor"), "sha256")
