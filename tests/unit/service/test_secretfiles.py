"""Files with secrets as editors and shells leave them: each is the secret that was meant, or is refused."""

from __future__ import annotations

import pytest

from director.service.configuration.secretfiles import problem_with, secret_lines

ONE, TWO = b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "content",
    [
        ONE,
        ONE + b"\r\n",
        BOM + ONE + b"\r\n",
        b"  " + ONE + b" \t \n\n",
        ONE + "\u00a0\n".encode(),
        ONE + b"\n" + ONE + b"\n" + BOM + ONE,
    ],
    ids=["plain", "of Windows", "with a mark", "with blanks", "with a blank of the web", "three times"],
)
def test_one_secret_is_read_however_its_line_ends(content: bytes) -> None:
    assert problem_with(content) == ""
    assert secret_lines(content) == [ONE]


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b" \n\n", b"\n" + BOM, b"\r\n" + BOM])
def test_a_second_secret_that_was_appended_is_a_second_secret(between: bytes) -> None:
    assert problem_with(ONE + between + TWO + b"\r\n") == ""
    assert secret_lines(ONE + between + TWO + b"\r\n") == [ONE, TWO]


def test_two_secrets_with_letters_outside_of_ascii_are_two() -> None:
    assert secret_lines("pässwörd-pässwörd-1\npässwörd-pässwörd-2\n".encode()) == [
        "pässwörd-pässwörd-1".encode(),
        "pässwörd-pässwörd-2".encode(),
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_utf_16_is_refused_because_others_would_have_another_secret(encoding: str, end: str) -> None:
    problem = problem_with((ONE.decode() + end).encode(encoding))
    assert "UTF-16" in problem
    assert "save it as UTF-8" in problem


BINARY = bytes(range(128, 160))


def test_bytes_that_are_no_text_are_one_secret() -> None:
    for content in (BINARY, BINARY + b"\n" + BINARY, b"0123456789abc\0d"):
        assert problem_with(content) == ""
        assert secret_lines(content) == [content]


@pytest.mark.parametrize("content", [BINARY + b"\n" + TWO + b"\n", TWO + b"\n" + BINARY])
def test_a_secret_that_was_added_to_one_that_is_no_text_is_refused(content: bytes) -> None:
    """All of it would be one new secret: the director would leave its ring with the first step of three."""
    assert "looks like one by itself" in problem_with(content)
    assert TWO.decode() not in problem_with(content)


def test_nothing_is_no_secret() -> None:
    for content in (b"", b" \r\n", BOM, BOM + b"\n\n"):
        assert secret_lines(content) == []
