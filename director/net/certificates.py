"""Reads when certificates expire. Whether they are valid is for TLS to check."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
PEM_LIMIT = 1024 * 1024
"""Bytes. A longer file is taken for a wrong path."""

_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17


def first_end(path: str) -> float | None:
    """Return when the first of the certificates in a PEM file expires, in Unix seconds.

    Returns:
        The time; None: the file contains no certificate.

    Raises:
        OSError: the file cannot be read.
        ValueError: a certificate is damaged.
    """
    with Path(path).open("rb") as file:
        text = file.read(PEM_LIMIT).decode("ascii", "replace")
    return min(map(not_after, _certificates(text)), default=None)


def _certificates(text: str) -> Iterator[bytes]:
    while BEGIN in text:
        _, _, text = text.partition(BEGIN)
        body, found, text = text.partition(END)
        if found:
            yield ssl.PEM_cert_to_DER_cert(f"{BEGIN}{body}{END}")


def not_after(der: bytes) -> float:
    """Return when a certificate expires, in Unix seconds. Raises ValueError."""
    try:
        certificate = _inside(der)
        fields = _elements(_inside(certificate))
        tags = [tag for tag, _ in fields]
        validity = fields[4 if tags[0] == _VERSION else 3][1]
        kind, value = _elements(validity)[1]
        text = value.decode("ascii")
        if kind == _UTC_TIME:  # the year has two digits: 1950 to 2049
            text = ("19" if int(text[:2]) >= 50 else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (IndexError, ValueError) as exc:
        raise ValueError("it is no X.509 certificate") from exc


def _inside(der: bytes) -> bytes:
    """Return the content of the sequence at the beginning of `der`."""
    tag, content = _elements(der)[0]
    if tag != _SEQUENCE:
        raise ValueError("no sequence")
    return content


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return tag and content of each element, in order."""
    found, at = [], 0
    while at < len(der):
        tag, length, start = der[at], der[at + 1], at + 2
        if length & 0x80:
            digits = length & 0x7F
            length = int.from_bytes(der[start : start + digits])
            start += digits
        if start + length > len(der):
            raise ValueError("it ends too early")
        found.append((tag, der[start : start + length]))
        at = start + length
    return found
