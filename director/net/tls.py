"""TLS between directors, with a CA of the operator's own. It converts bytes and uses no socket.

Both ends show a certificate. Each certificate must lead to the common CA and contain the address from which
its director connects. The transport of the event loop is not used for TLS: it does not tell the acceptor why
a handshake failed, does not send the alert that tells the other end, and cannot close one direction and
continue to read the other.
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
"""Bytes. A longer file is taken for a wrong path."""
STEP = 256 * 1024
"""Bytes put into TLS or taken out of it at once: its buffers are slow when they are large."""

_ALERT, _HANDSHAKE, _MAJOR = 0x15, 0x16, 0x03
_REMEDY = "set ring.tls on all directors, or on none"
_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"}


class NoTls(PeerError):
    """The other end does not use TLS at all. Messages to it may be sent plain."""


def looks_like_tls(data: bytes) -> bool:
    """Whether the first bytes of a connection are TLS: a handshake, or an alert instead of one.

    Such bytes cannot begin a plain frame: read as its length, they exceed every limit.
    """
    return len(data) >= 2 and data[0] in (_ALERT, _HANDSHAKE) and data[1] == _MAJOR


def unexpected(peer: Address) -> str:
    """Return the message for a peer that uses TLS although this end does not."""
    return f"{peer} uses TLS, this director does not: {_REMEDY}"


class RingTls:
    """The certificates and the key with which a director uses TLS, read from three PEM files."""

    def __init__(self, cert: str, key: str, ca: str) -> None:
        """Read the files.

        Args:
            cert: path of this director's certificate, followed by those between it and the CA.
            key: path of its key.
            ca: path of the trusted certificates.

        Raises:
            TlsFileError: a file cannot be used. The message names the file.
        """
        for part, path in (("cert", cert), ("key", key), ("ca", ca)):
            _check_file(part, path)
        self._dialler = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._acceptor = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (self._dialler, self._acceptor):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.verify_mode = ssl.CERT_REQUIRED
            _load(context, cert, key, ca)
        self._acceptor.num_tickets = 0  # a link stays open for long, and no link resumes a session
        self._own_digest = _shown(cert, key)
        self.content = hashlib.sha256(b"".join(Path(path).read_bytes() for path in (cert, key, ca))).digest()
        """A digest of the files, which tells whether their content has changed."""
        self.ends = dict(_ends((cert, ca)))
        """For each path the time when the first certificate in it expires, in Unix seconds."""

    def dialling(self, peer: Address) -> TlsSession:
        return TlsSession(self._dialler, peer, dialled=True, own_digest=self._own_digest)

    def accepting(self, peer: Address) -> TlsSession:
        return TlsSession(self._acceptor, peer, dialled=False, own_digest=self._own_digest)

    def problem_with_own(self, me: Address) -> str | None:
        """Return why other directors with the same CA would refuse this director's certificate; None: they
        would not."""
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
    """TLS of one connection. After each `receive` and `close` send what `outgoing` returns."""

    def __init__(self, context: ssl.SSLContext, peer: Address, *, dialled: bool, own_digest: bytes) -> None:
        """Begin TLS.

        Args:
            context: the certificates and the key.
            peer: the address of the other end.
            dialled: whether this end has connected.
            own_digest: SHA-256 of the certificate that this end shows.
        """
        self.peer, self.established = peer, False
        self.certificates = b""
        """SHA-256 of the dialling director's certificate, then of the accepting director's; empty before
        the handshake is done."""
        self._own_digest = own_digest
        self._dialled, self._begun = dialled, False
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=not dialled, server_hostname=peer if dialled else None
        )

    def receive(self, data: bytes) -> bytes:
        """Handle received bytes.

        Args:
            data: bytes from the other end; empty: begin the handshake.

        Returns:
            The decrypted data.

        Raises:
            PeerError: TLS with the other end is not possible, or it refuses this director.
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
        """Return the encrypted form of `data`."""
        parts, rest = [], memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest[:STEP]) :]
            parts.append(self._out.read())
        return b"".join(parts)

    def close(self) -> None:
        """Tell the other end that nothing more is sent."""
        with suppress(ssl.SSLError):  # it expects the same of the other end, which no task waits for
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
        """Check the address in the other end's certificate.

        When this end dialled, the library has checked it.
        """
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
        raise NoTls(f"{self.peer} does not use TLS, this director does: {_REMEDY}")

    def _reason(self, exc: ssl.SSLError) -> str:
        reason = (exc.reason or str(exc)).replace("_", " ").lower()
        if isinstance(exc, ssl.SSLCertVerificationError):
            if exc.verify_code == _IP_MISMATCH:
                return self._wrong_address
            untrusted = "ring.tls.ca has not signed it: " if exc.verify_code in _OTHER_CA else ""
            return f"the certificate of {self.peer} is refused: {untrusted}{exc.verify_message}"
        if "alert" in reason:
            return f"{self.peer} refuses the certificate or the TLS of this director: {reason}"
        if reason == "peer did not return a certificate":
            return f"{self.peer} sends no certificate"
        return f"TLS with {self.peer} failed: {reason}"


_IP_MISMATCH = 64
"""X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
_OTHER_CA = range(18, 22)
"""From X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT on: OpenSSL's codes for an untrusted certificate, which
depend on the chain."""


def _digest(certificate: bytes | None) -> bytes:
    return hashlib.sha256(certificate or b"").digest()


def _shown(cert: str, key: str) -> bytes:
    """Return SHA-256 of the certificate that an end with these files shows, found by a handshake with
    itself."""
    near, far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    near.check_hostname, near.verify_mode = False, ssl.CERT_NONE  # its validity is checked elsewhere
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
        with suppress(OSError, ValueError):  # OpenSSL has read the file; only the alarm about its end is lost
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
        # Without a password function it would ask on the terminal.
        context.load_cert_chain(cert, key, password=no_password)
    except ssl.SSLError as exc:
        if asked:
            problem = f"{key} is encrypted; store it without a pass phrase: openssl pkey -in OLD -out NEW"
        elif exc.reason == "KEY_VALUES_MISMATCH":
            problem = f"{key} is not the key of {cert}; name a key and a certificate that belong together"
        else:
            problem = f"{key} holds no private key that can be used; name this director's, in PEM"
        raise TlsFileError("key", problem) from exc
