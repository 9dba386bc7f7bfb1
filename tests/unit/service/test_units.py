"""Values as people write them in director.toml."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.service.configuration.units import (
    Choice,
    Count,
    Duration,
    Flag,
    Mode,
    StateUrl,
    Text,
    Texts,
    duration_text,
    parse_duration,
    toml_text,
)
from director.service.secret import Secret


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15 min", 900.0),
        ("2 s", 2.0),
        ("2s", 2.0),
        ("500 ms", 0.5),
        ("1 h", 3600.0),
        ("1.5 s", 1.5),
        ("2 days", 172800.0),
        ("30 seconds", 30.0),
        ("0 s", 0.0),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(min_value=0, max_value=10_000_000), st.sampled_from(["ms", "s", "min", "h", "d"]))
def test_a_duration_that_was_read_and_written_again_stays_the_same(count: int, unit: str) -> None:
    seconds = parse_duration(f"{count} {unit}")
    assert parse_duration(duration_text(seconds)) == seconds


@pytest.mark.parametrize("value", [900, "900", 900.0])
def test_a_number_without_a_unit_is_an_error_that_says_what_to_write(value: object) -> None:
    with pytest.raises(ValueError, match='write "900 s"'):
        parse_duration(value)


@pytest.mark.parametrize(
    "value", ["", "soon", "5 m", "-1 s", "1 s 2", "nan s", "1e3 s", float("nan"), -5, True, None, ["1 s"]]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match='"15 min"'):
        parse_duration(value)


@given(st.text(st.characters(exclude_characters="0123456789")))
def test_no_text_without_a_number_is_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number and a unit"):
        parse_duration(text)


def test_a_duration_below_its_limit_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="at least 10 s"):
        Duration(at_least=10.0).read("9 s")


def test_a_duration_above_its_limit_is_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="at most 1 h"):
        Duration(at_most=3600.0).read("2 h")
    with pytest.raises(ValueError, match="at most 365 d"):
        Duration().read("999999999999999 days")


def test_where_only_whole_seconds_count_a_fraction_is_refused() -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        Duration(whole=True).read("1500 ms")


@pytest.mark.parametrize(("text", "mode"), [("0666", 0o666), ("666", 0o666), ("0600", 0o600), ("0000", 0)])
def test_a_mode_is_octal_text(text: str, mode: int) -> None:
    assert Mode().read(text) == mode


@pytest.mark.parametrize("value", [666, 0o666, "rw", "0888", "", "01777"])
def test_what_is_no_octal_text_is_no_mode(value: object) -> None:
    with pytest.raises(ValueError, match='"0600"'):
        Mode().read(value)


def test_a_mode_is_written_back_as_octal_text() -> None:
    assert Mode().write(0o600) == '"0600"'


@pytest.mark.parametrize("value", [-1, 1001, True, "5", 1.0])
def test_a_count_is_a_whole_number_within_its_limits(value: object) -> None:
    with pytest.raises(ValueError, match="0 to 1000"):
        Count(0, 1000).read(value)


def test_a_flag_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="true or false"):
        Flag().read("yes")


def test_a_wrong_choice_names_the_right_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match='"logfmt" or "json"; did you mean "json"'):
        Choice("logfmt", "json").read("jsn")


def test_text_with_control_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="control characters"):
        Text().read("run\x00dir")


def test_text_that_must_be_there_may_not_be_empty() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Text(needed=True).read("")


def test_a_list_of_text_takes_nothing_but_text() -> None:
    with pytest.raises(ValueError, match="a list of texts"):
        Texts().read(["10.0.0.1", 5])


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_being_written_as_toml(text: str) -> None:
    assert tomllib.loads(f"key = {toml_text(text)}")["key"] == text


def test_a_secret_shows_in_no_representation() -> None:
    secret = Secret(b"correct horse")
    assert "horse" not in f"{secret!r} {secret!s} {secret}"
    assert secret == b"correct horse"


@pytest.mark.parametrize(
    "url", ["redis://bob:hunter2@h:6379/0", "redis://:hun/ter2@h", "redis://h?username=bob&password=hunter2"]
)
def test_a_state_url_shows_without_its_password(url: str) -> None:
    assert "ter2" not in StateUrl(url).shown + repr(StateUrl(url)) + f"{[StateUrl(url)]}"


@pytest.mark.parametrize("url", ["sqlite:////var/lib/director/state.db", "memory:", "redis://h:6379/0"])
def test_a_state_url_without_a_password_shows_as_it_is(url: str) -> None:
    assert StateUrl(url).shown == url
