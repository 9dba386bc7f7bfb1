"""TLS between directors, with a CA of the operator's own. Bytes in, bytes out: no socket.

Both ends show a certificate. Each must lead to the common CA and carry the address its director speaks from.
Done here and not in the transport of the loop, because that one neither tells the acceptor why a handshake
failed, nor sends the alert that tells the other end, nor can close one direction and go on listening.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

from director.errors import PeerError, TlsFileError
from director.net.certificates import first_end
from director.types import Address

PEM_LIMIT = 1024 * 1024
"""Bytes. A longer file is no certificate but a wrong path."""
STEP = 256 * 1024
"""Bytes put into TLS or taken out of it at once: its buffers get slow when they are large."""

_ALERT, _HANDSHAKE, _MAJOR = 0x15, 0x16, 0x03
_REMEDY = "set ring.tls on all directors, or on none"
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"}


class NoTls(PeerError):
    """The other end does not speak TLS at all; what is sent to it may be plain."""


def looks_like_tls(data: bytes) -> bool:
    """Whether the first bytes of a connection are TLS: a handshake, or an alert instead of one.

    As the start of a frame they would be a length far beyond every limit.
    """
    return len(data) >= 2 and data[0] in (_ALERT, _HANDSHAKE) and data[1] == _MAJOR


def unexpected(peer: Address) -> str:
    """What to say to `peer` who speaks TLS where none is set."""
    return f"{peer} speaks TLS, this end does not: {_REMEDY}"


class RingTls:
    """What a director needs to speak TLS with its neighbours, read from three PEM files."""

    def __init__(self, cert: str, key: str, ca: str) -> None:
        """Read the files.

        Args:
            cert: path of this director's certificate, with those between it and the CA.
            key: path of its key.
            ca: path of the certificates to believe.

        Raises:
            TlsFileError: a file cannot be used; names it.
        """
        for part, path in (("cert", cert), ("key", key), ("ca", ca)):
            _check_file(part, path)
        self._dialler = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._acceptor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (self._dialler, self._acceptor):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            _load(context, cert, key, ca)
        self._acceptor.num_tickets = 0  # links last; nobody resumes one
        self._own_digest = _shown(cert, key)
        self.content = hashlib.sha256(b"".join(Path(path).read_bytes() for path in (cert, key, ca))).digest()
        """Tells whether the files hold what they held before."""
        self.ends = dict(_ends((cert, ca)))
        """Path -> unix seconds when the first certificate that was read from it ends."""

    def dialling(self, peer: Address) -> TlsSession:
        return TlsSession(self._dialler, peer, dialled=True, own_digest=self._own_digest)

    def accepting(self, peer: Address) -> TlsSession:
        return TlsSession(self._acceptor, peer, dialled=False, own_digest=self._own_digest)

    def problem_with_own(self, me: Address) -> str | None:
        """Why other directors, with the same CA, would refuse our certificate; None: they would not."""
        near, far = self.dialling(me), self.accepting(me)
        try:
            near.receive(b"")
            while not far.established:
                far.receive(near.outgoing())
                near.receive(far.outgoing())
        except PeerError as exc:
            return str(exc)
        return None


class TlsSession:
    """TLS of one connection. What `outgoing` gives is to be sent after each `receive` and `close`."""

    def __init__(self, context: ssl.SSLContext, peer: Address, *, dialled: bool, own_digest: bytes) -> None:
        """own_digest: SHA-256 of the certificate that this end shows."""
        self.peer, self.established = peer, False
        self.certificates = b""
        """SHA-256 of the dialler's certificate, then of the acceptor's, once the handshake is done."""
        self._own_digest = own_digest
        self._dialled, self._begun = dialled, False
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=not dialled, server_hostname=peer if dialled else None
        )

    def receive(self, data: bytes) -> bytes:
        """Take what came.

        Args:
            data: from the other end; empty: begin.

        Returns:
            What the other end said in it.

        Raises:
            PeerError: the other end cannot be talked to, or refuses this director.
        """
        if data and not self._begun:
            self._begun = True
            if not looks_like_tls(data):
                self._no_tls()
        self._in.write(data)
        try:
            if not self.established:
                self._tls.do_handshake()
                self.established = True
                theirs = _digest(self._tls.getpeercert(binary_form=True))
                self.certificates = self._own_digest + theirs if self._dialled else theirs + self._own_digest
                self._check_address()
            return self._read()
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as exc:
            if exc.reason in _NOT_TLS and not self.established:
                self._no_tls()
            raise PeerError(self._reason(exc)) from exc

    def encrypt(self, data: bytes) -> bytes:
        """What to put on the line for `data`."""
        parts, rest = [], memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest[:STEP]) :]
            parts.append(self._out.read())
        return b"".join(parts)

    def close(self) -> None:
        """Say that nothing more comes."""
        with suppress(ssl.SSLError):  # it wants to hear the same from the other end; nobody waits for that
            self._tls.unwrap()

    def outgoing(self) -> bytes:
        return self._out.read()

    def _read(self) -> bytes:
        parts = []
        with suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while part := self._tls.read(STEP):
                parts.append(part)
        return b"".join(parts)

    def _check_address(self) -> None:
        """Where we dialled, the library has done it."""
        if self._dialled:
            return
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        names: list[tuple[str, str]] = list(certificate.get("subjectAltName", ()))
        if not any(kind == "IP Address" and _same(name, self.peer) for kind, name in names):
            found = ", ".join(f"{kind}:{name.strip()}" for kind, name in names).replace("IP Address:", "IP:")
            raise PeerError(f"{self._wrong_address}, found {found or 'none'}")

    @property
    def _wrong_address(self) -> str:
        return (
            f"the certificate of {self.peer} is not for its address: expected subjectAltName IP:{self.peer}"
        )

    def _no_tls(self) -> NoReturn:
        raise NoTls(f"{self.peer} speaks no TLS, this end speaks nothing else: {_REMEDY}")

    def _reason(self, exc: ssl.SSLError) -> str:
        reason = (exc.reason or str(exc)).replace("_", " ").lower()
        if isinstance(exc, ssl.SSLCertVerificationError):
            if exc.verify_code == _IP_MISMATCH:
                return self._wrong_address
            untrusted = "it does not lead to ring.tls.ca: " if exc.verify_code in _OTHER_CA else ""
            return f"the certificate of {self.peer} is refused: {untrusted}{exc.verify_message}"
        if "alert" in reason:
            return f"{self.peer} refuses our certificate or our TLS: {reason}"
        if reason == "peer did not return a certificate":
            return f"{self.peer} shows no certificate"
        return f"TLS with {self.peer} failed: {reason}"


_IP_MISMATCH = 64
"""X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
_OTHER_CA = range(18, 22)
"""From X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT on: OpenSSL's ways to say so, which depend on the chain."""


def _digest(certificate: bytes | None) -> bytes:
    return hashlib.sha256(certificate or b"").digest()


def _shown(cert: str, key: str) -> bytes:
    """SHA-256 of the certificate that an end with these files shows: TLS with itself tells it."""
    near, far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    near.check_hostname, near.verify_mode = False, ssl.CERT_NONE  # whether it is good is asked elsewhere
    far.load_cert_chain(cert, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = near.wrap_bio(to_client, to_server)
    server = far.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in (client, server, client):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLError as exc:
        raise TlsFileError("cert", f"{cert} cannot be used for TLS: {exc.reason}") from exc
    return _digest(client.getpeercert(binary_form=True))


def _ends(paths: Sequence[str]) -> Iterator[tuple[str, float]]:
    for path in paths:
        with suppress(OSError, ValueError):  # OpenSSL has read them: only the alarm is lost
            if (end := first_end(path)) is not None:
                yield path, end


def _same(name: str, address: Address) -> bool:
    try:
        return ip_address(name.strip()) == ip_address(address)
    except ValueError:
        return False


def _check_file(part: str, path: str) -> None:
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise TlsFileError(part, f"{path} is not a file")
        if status.st_size > PEM_LIMIT:
            raise TlsFileError(part, f"{path} is too long for PEM ({status.st_size} bytes)")
        with Path(path).open("rb"):
            pass
    except PermissionError as exc:
        raise TlsFileError(part, f"{path} cannot be read by uid {os.geteuid()} ({exc.strerror})") from exc
    except OSError as exc:
        raise TlsFileError(part, f"{path} cannot be read ({exc.strerror})") from exc


def _load(context: ssl.SSLContext, cert: str, key: str, ca: str) -> None:
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as exc:
        raise TlsFileError("ca", f"{ca} holds no certificate; name the CA's, in PEM") from exc
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except ssl.SSLError as exc:
        raise TlsFileError("cert", f"{cert} holds no certificate; name this director's, in PEM") from exc
    asked = []

    def no_password() -> str:
        asked.append(key)
        return ""

    try:
        context.load_cert_chain(cert, key, password=no_password)  # without one it would ask the terminal
    except ssl.SSLError as exc:
        if asked:
            problem = f"{key} is encrypted; store it without a pass phrase: openssl pkey -in OLD -out NEW"
        elif exc.reason == "KEY_VALUES_MISMATCH":
            problem = f"{key} is not the key of {cert}; name the two that were made together"
        else:
            problem = f"{key} holds no private key that can be used; name this director's, in PEM"
        raise TlsFileError("key", problem) from exc
