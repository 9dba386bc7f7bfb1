from __future__ import annotations

from pathlib import Path

import pytest

from director.dovecot.doveconf import HIDDEN, decoded, read
from director.errors import DoveconfError

PRINTED = sorted((Path(__file__).parents[2] / "data/doveconf").glob("*.txt"))


@pytest.mark.parametrize("path", PRINTED, ids=lambda path: path.stem)
def test_any_output_of_doveconf_is_read(path: Path) -> None:
    found = read(path.read_text(), path.name)
    assert found.release == ("2.4" if path.stem.endswith("2.4") else "2.3")
    assert found.root.settings


def test_a_setting_is_found_by_the_blocks_around_it() -> None:
    root = read("service a {\n  unix_listener b/c {\n    mode = 0600\n  }\n}\n", "f").root
    assert root.get("service", "a", "unix_listener", "b/c", "mode") == "0600"
    assert root.get("service", "a", "unix_listener", "d", "mode", default="none") == "none"


def test_the_last_value_counts_also_of_a_block_that_is_opened_again() -> None:
    root = read("x = 1\nx = 2\nservice a {\n y = 1\n}\nservice a {\n y = 2\n}\nservice a {\n}\n", "f").root
    assert root.get("x") == "2"
    assert root.get("service", "a", "y") == "2"


def test_blocks_without_a_name_stay_apart() -> None:
    root = read("passdb {\n driver = pam\n}\npassdb {\n driver = sql\n}\n", "f").root
    assert [block.get("driver") for block in root.all("passdb")] == ["pam", "sql"]


def test_fields_of_a_named_passdb_are_a_block_of_it() -> None:
    root = read("passdb static {\n  fields {\n    proxy = y\n  }\n}\n", "f").root
    assert root.get("passdb", "static", "fields", "", "proxy") == "y"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("a b", "a b"),
        ("a # why", "a"),
        ('"a # b" # why', "a # b"),
        ('"a \\"b\\""', 'a "b"'),
        ("", ""),
        ("# why", ""),
        ("10.2.0.1 10.2.0.2#note", "10.2.0.1 10.2.0.2"),
        ("%Lu#x", "%Lu"),
        ('"%Lu#x"', "%Lu#x"),
        ("'1#2' #x", "1#2"),
        ('1 "a # b" c', '1 "a # b" c'),
        ("1 # a \\", "1"),
        (HIDDEN, HIDDEN),
        ("a \\\n  b", "a b"),
    ],
)
def test_a_value_is_without_quotes_and_comment(written: str, value: str) -> None:
    assert read(f"key = {written}\n", "f").root.settings == {"key": value}


def test_a_comment_that_ends_in_a_backslash_does_not_swallow_the_next_line() -> None:
    root = read("x = 1 # C:\\\ny = 2\n", "f").root
    assert root.settings == {"x": "1", "y": "2"}


def test_a_variable_has_the_value_that_was_set_before_it() -> None:
    text = 'x = a\nx = $x b\ny = $x $unset $x/y\nz = "$x"\nservice s {\n  v = $x\n}\n'
    root = read(text, "f").root
    assert root.settings == {"x": "a b", "y": "a b $unset $x/y", "z": "$x"}
    assert root.get("service", "s", "v") == "a b"


def test_a_setting_that_is_added_to_begins_empty() -> None:
    text = "protocols = $protocols imap\nprotocols = $protocols lmtp\n"
    assert read(text, "f").root.settings == {"protocols": "imap lmtp"}


def test_a_setting_of_a_protocol_is_that_of_its_block_or_of_all_others() -> None:
    root = read("k = 1\nprotocol lmtp {\n k = 2\n}\nprotocol !imap {\n j = 3\n}\n", "f").root
    assert [root.in_protocol(name, "k") for name in ("lmtp", "imap")] == ["2", "1"]
    assert [root.in_protocol(name, "j", "0") for name in ("lmtp", "imap")] == ["3", "0"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_written_on_windows_is_read(encoding: str, end: str) -> None:
    text = "# 2.3.21 (47349e2482): /etc/dovecot/dovecot.conf\nlisten = a.süd.example\n"
    found = read(decoded(text.replace("\n", end).encode(encoding)), "f")
    assert (found.version, found.root.settings) == ("2.3.21", {"listen": "a.süd.example"})


def test_warnings_of_the_program_are_ignored() -> None:
    assert read("doveconf: Warning: NOTE: {\nx = 1\n", "f").root.settings == {"x": "1"}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("x = 1\n!include conf.d/*.conf\n", 2, "doveconf -n"),
        ("service a {\n x = 1\n", 1, "not closed"),
        ("x = 1\n}\n", 2, "closes no block"),
        ("\nrubbish\n", 2, "neither a setting nor a block"),
    ],
)
def test_a_text_that_is_not_a_configuration_is_refused_with_its_line(
    text: str, line: int, problem: str
) -> None:
    with pytest.raises(DoveconfError, match=problem) as refusal:
        read(text, "given.conf")
    assert refusal.value.line == line
    assert str(refusal.value).startswith(f"given.conf: line {line}: ")


def test_an_error_of_doveconf_is_not_read_as_an_empty_configuration() -> None:
    text = "# 2.4.1-4 (7d8c0e5759): f\ndoveconf: Fatal: Error in f line 1: Unknown setting: x\n"
    with pytest.raises(DoveconfError, match="Unknown setting: x") as caught:
        read(text, "f")
    assert caught.value.line == 2
