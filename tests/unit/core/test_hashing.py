"""User hashes and keys, against the vectors recorded from Dovecot 2.3's director."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from director.core.placement.hashing import HashFormatError, UserHash

VECTORS = json.loads(Path(__file__).parents[2].joinpath("data/hash-vectors.json").read_text())["user_hash"]
FORMATS = [vector for vector in VECTORS["formats"] if "hash" in vector]
ERRORS = [vector for vector in [*VECTORS["formats"], VECTORS["unknown_variable"]] if "error" in vector]


def digest(text: bytes) -> int:
    return int(hashlib.md5(text).hexdigest()[:8], 16)


@pytest.mark.parametrize("vector", VECTORS["default_format"], ids=lambda vector: repr(vector["user"]))
def test_the_default_hash_of_a_name_is_the_originals(vector: dict[str, Any]) -> None:
    assert UserHash(vector["format"]).hash(vector["user"].encode()) == vector["hash"]


@pytest.mark.parametrize("vector", FORMATS, ids=lambda vector: f"{vector['format']}-{vector['user']}")
def test_a_format_expands_and_hashes_as_in_dovecot_2_3(vector: dict[str, Any]) -> None:
    user_hash = UserHash(vector["format"])
    name = vector["user"].encode()
    assert (user_hash.expand(name), user_hash.hash(name)) == (vector["expanded"].encode(), vector["hash"])


@pytest.mark.parametrize("vector", ERRORS, ids=lambda vector: vector["format"])
def test_an_unknown_variable_is_refused_with_the_originals_words(vector: dict[str, Any]) -> None:
    with pytest.raises(HashFormatError) as caught:
        UserHash(vector["format"])
    assert str(caught.value) == vector["error"]


@pytest.mark.parametrize(
    ("format", "variable"), [("%x", "x"), ("%{user", "{"), ("%u%5.3Lq", "q"), ("%{}", "{}"), ("%{u}", "u")]
)
def test_the_unknown_variable_is_named(format: str, variable: str) -> None:
    with pytest.raises(HashFormatError) as caught:
        UserHash(format)
    assert caught.value.variable == variable


@pytest.mark.parametrize(
    ("format", "name", "expanded"),
    [
        ("%{user}", b"a@b", b"a@b"),
        ("%{username}-%L{domain}", b"a@B.C", b"a-b.c"),
        ("%Ru", b"abc", b"cba"),
        ("%Tu", b"abc \t ", b"abc"),
        ("%Mu", b"alice", hashlib.md5(b"alice").hexdigest().encode()),
        ("%LMu", b"Alice", hashlib.md5(b"alice").hexdigest().encode()),
        ("%MUu", b"alice", hashlib.md5(b"alice").hexdigest().upper().encode()),
        ("%Hu", b"ab", b"672"),
        ("%256Hu", b"ab", b"72"),
        ("%4.256Hu", b"ab", b"0072"),
        ("%Nu", b"alice", hashlib.md5(b"alice").hexdigest()[8:16].encode()),
        ("%2.16Nu", b"alice", b"0" + hashlib.md5(b"alice").hexdigest()[15:16].encode()),
        ("%Xu", b"255", b"ff"),
        ("%Xu", b"no number", b"0"),
        ("%Xu", b"18446744073709551615", b"f" * 16),
        ("%Xu", b"18446744073709551616", b"0"),
        ("%Xu", b"9" * 5000, b"0"),
        ("%Xu", b"0" * 5000 + b"255", b"ff"),
        ("%Eu", b"a\"b'c\\d", b"a\\\"b\\'c\\\\d"),
        ("%Du", b"example.com", b"example,dc=com"),
        ("%3u", b"abcdef", b"abc"),
        ("%2.3u", b"abcdef", b"cde"),
        ("%2.0u", b"abcdef", b"cdef"),
        ("%-2.1u", b"abcdef", b"e"),
        ("%-9.2u", b"abcdef", b"ab"),
        ("%9.2u", b"abcdef", b""),
        ("%1.-2u", b"abcdef", b"bcd"),
        ("%05u", b"abc", b"00abc"),
        ("%02u", b"abc", b"abc"),
        ("%1.Lu", b"ABC", b"bc"),
        ("x%", b"abc", b"x"),
        ("x%L", b"abc", b"x"),
        ("%u%%", b"a%b", b"a%b%"),
        ("no variable", b"abc", b"no variable"),
    ],
)
def test_modifiers_and_substrings_do_what_they_do_in_dovecot_2_3(
    format: str, name: bytes, expanded: bytes
) -> None:
    assert UserHash(format).expand(name) == expanded


def test_case_is_folded_for_ascii_letters_only() -> None:
    assert UserHash("%Lu").expand("ÄÖ-Alice".encode()) == "ÄÖ-alice".encode()


def test_a_name_need_not_be_utf_8() -> None:
    assert UserHash("%Lu").hash(b"A\xff\x00B") == digest(b"a\xff\x00b")


@pytest.mark.shows("R-56")
def test_the_name_is_cut_at_the_first_character_of_the_separator() -> None:
    user_hash = UserHash("%Lu", separator="*#")
    assert user_hash.hash(b"alice*master*more") == digest(b"alice")
    assert user_hash.hash(b"alice#master") == digest(b"alice#master")


@pytest.mark.shows("R-56")
def test_without_a_separator_the_name_stays_whole() -> None:
    assert UserHash("%Lu").hash(b"a*masteruser") == 3085056640


def test_the_upper_half_of_a_key_is_the_hash() -> None:
    assert UserHash("%Ln").key(b"Alice@Example.COM") >> 32 == 1669653170


@pytest.mark.shows("I-30")
def test_the_lower_half_of_a_key_tells_names_of_one_hash_apart() -> None:
    keys = {UserHash().key(b"twin6410"), UserHash().key(b"twin8319")}
    assert {key >> 32 for key in keys} == {278790096}
    assert len(keys) == 2


@pytest.mark.shows("rule 1")
def test_a_tag_changes_the_lower_half_of_a_key_only() -> None:
    plain, tagged = UserHash().key(b"alice"), UserHash().key(b"alice", b"blue")
    assert plain ^ tagged == digest(b"blue")


@pytest.mark.parametrize(("format", "mode"), [("%Lu", 1), ("%u", 2), ("%Ln", 0), ("%L{user}", 0)])
def test_the_two_usual_formats_have_a_short_cut(format: str, mode: int) -> None:
    assert UserHash(format).fast_mode == mode
