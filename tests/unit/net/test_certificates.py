"""When the certificates in a file end."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from director.net.certificates import first_end, not_after

SOON, LATER = (datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) for days in (3, 20))


def pem(end: datetime) -> bytes:
    return trustme.CA().issue_cert("127.0.0.1", not_after=end).cert_chain_pems[0].bytes()


@pytest.mark.parametrize(
    "end", [SOON, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)]
)
def test_the_end_of_a_certificate_is_read_in_both_of_its_forms(end: datetime) -> None:
    assert not_after(ssl.PEM_cert_to_DER_cert(pem(end).decode())) == end.timestamp()


def test_of_several_certificates_in_a_file_the_first_end_counts(tmp_path: Path) -> None:
    file = tmp_path / "chain.pem"
    file.write_bytes(b"a comment\n" + pem(LATER) + pem(SOON) + pem(LATER))
    assert first_end(str(file)) == SOON.timestamp()


def test_a_file_without_a_certificate_has_no_end(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\n")
    assert first_end(str(file)) is None
    with pytest.raises(OSError, match="No such file"):
        first_end(str(tmp_path / "nowhere"))


def test_bytes_that_are_no_certificate_are_an_error_wherever_they_end() -> None:
    whole = ssl.PEM_cert_to_DER_cert(pem(SOON).decode())
    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(ValueError, match=r"no X\.509 certificate"):
            not_after(whole[:length])
    with pytest.raises(ValueError, match=r"no X\.509 certificate"):
        not_after(b"\x30\x03\x30\x01\x05")
