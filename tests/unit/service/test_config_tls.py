"""`[ring] tls` in director.toml: which files are taken, refused or warned of."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from director.service.configuration.config import TlsConfig, show
from tests.certificates import Authority
from tests.unit.service.test_config import BACKENDS, RING, Place


@pytest.fixture
def place(tmp_path: Path, authority: Authority) -> Place:
    """With the files of TLS for 10.0.0.1 in it."""
    place = Place(tmp_path)
    pems = authority.pems("10.0.0.1")
    for name, file in pems._asdict().items():
        place.write(f"{name}.pem", file.read_text())
    return place


TLS = 'tls = {cert = "cert.pem", key = "key.pem", ca = "ca.pem"}\n'


def test_the_files_of_tls_are_relative_to_the_configuration(place: Place) -> None:
    config = place.load(RING + TLS + BACKENDS)
    assert config.ring.tls == TlsConfig(
        cert=str(place.folder / "cert.pem"),
        key=str(place.folder / "key.pem"),
        ca=str(place.folder / "ca.pem"),
    )
    assert config.ring.tls
    assert config.warnings == ()
    assert tomllib.loads(show(config))["ring"]["tls"]["key"] == str(place.folder / "key.pem")


def test_without_tls_links_are_plain(place: Place) -> None:
    assert not place.load(RING + BACKENDS).ring.tls
    assert not place.load(RING + 'tls = {cert = "", key = "", ca = ""}\n' + BACKENDS).ring.tls


def test_directors_whose_links_leave_the_machine_without_tls_are_named(place: Place) -> None:
    assert place.load(RING + BACKENDS).ring.readable == ("10.0.0.1:9090", "10.0.0.2:9090")
    assert place.load(RING + TLS + BACKENDS).ring.readable == ()
    loopback = RING.replace("10.0.0.", "127.0.0.")
    assert place.load(loopback + BACKENDS).ring.readable == ()
    assert place.load(BACKENDS).ring.readable == ()


@pytest.mark.parametrize(
    ("tls", "key", "hint"),
    [
        ('{cert = "cert.pem", key = "key.pem"}', "ring.tls", "ca missing"),
        ('{ca = "ca.pem"}', "ring.tls", "cert and key missing"),
        (
            '{cert = "cert.pem", key = "key.pem", ca = "ca.pem", cert_file = "x"}',
            "ring.tls.cert_file",
            "cert",
        ),
        ('{cert = "none.pem", key = "key.pem", ca = "ca.pem"}', "ring.tls.cert", "none.pem cannot be read"),
        ('{cert = "cert.pem", key = ".", ca = "ca.pem"}', "ring.tls.key", "is not a file"),
        ('{cert = "cert.pem", key = "cert.pem", ca = "ca.pem"}', "ring.tls.key", "no private key"),
        ('{cert = "cert.pem", key = "other.pem", ca = "ca.pem"}', "ring.tls.key", "is not the key of"),
        ('{cert = "key.pem", key = "key.pem", ca = "ca.pem"}', "ring.tls.cert", "holds no certificate"),
        ('{cert = "cert.pem", key = "key.pem", ca = "key.pem"}', "ring.tls.ca", "holds no certificate"),
        ('{cert = "cert.pem", key = "key.pem", ca = 5}', "ring.tls.ca", "text in quotes"),
        ('"cert.pem"', "ring.tls", "write [ring.tls]"),
    ],
)
def test_files_of_tls_that_cannot_be_used_are_named(
    place: Place, authority: Authority, tls: str, key: str, hint: str
) -> None:
    place.write("other.pem", authority.pems("10.0.0.2").key.read_text())
    problem = place.problem(RING + f"tls = {tls}\n" + BACKENDS)
    assert problem.key == key
    assert hint in problem.expected


def test_a_key_with_a_pass_phrase_is_refused_without_a_prompt(place: Place) -> None:
    key = load_pem_private_key((place.folder / "key.pem").read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))
    place.write("key.pem", encrypted.decode())
    problem = place.problem(RING + TLS + BACKENDS)
    assert problem.key == "ring.tls.key"
    assert "without a pass phrase" in problem.expected


def test_a_key_that_everybody_can_read_is_warned_of(place: Place) -> None:
    (place.folder / "key.pem").chmod(0o644)
    (warning,) = place.load(RING + TLS + BACKENDS).warnings
    assert "ring.tls.key: every user can read" in warning


@pytest.mark.parametrize(
    ("address", "days", "reason"),
    [("10.0.0.9", 1, "expected subjectAltName IP:10.0.0.1"), ("10.0.0.1", -1, "certificate has expired")],
)
def test_an_own_certificate_that_others_will_refuse_is_warned_of_but_the_director_starts(
    place: Place, authority: Authority, address: str, days: int, reason: str
) -> None:
    pems = authority.pems(address, days=days)
    place.write("cert.pem", pems.cert.read_text())
    place.write("key.pem", pems.key.read_text())
    (warning,) = place.load(RING + TLS + BACKENDS).warnings
    assert "other directors will refuse" in warning
    assert reason in warning


def test_an_own_certificate_of_another_authority_is_warned_of(
    place: Place, other_authority: Authority
) -> None:
    place.write("ca.pem", other_authority.ca.read_text())
    (warning,) = place.load(RING + TLS + BACKENDS).warnings
    assert "ring.tls.ca has not signed it" in warning
