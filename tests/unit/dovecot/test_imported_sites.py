"""Whole configurations in the ways in which sites write them, each with the values it must come to.

`tests/data/sites/NAME.toml` was written by hand beside NAME.conf: the whole director.toml, settings of the
snippet for 2.3 and for 2.4, and words of every note; `names` is what the name service knows there, `environ`
the environment, and `own` the addresses of the machine.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from director.demo.dovecot import Programs
from director.dovecot.doveconf import Block, decoded, read
from director.dovecot.takeover import TakenOver
from director.service.configuration.configfile import load
from tests.needs import cannot_run, needs
from tests.unit.dovecot.imports import taken, values

DATA = Path(__file__).parents[2] / "data/sites"
SITES = sorted(path.stem for path in DATA.glob("*.conf"))
FOR_EVERYBODY_ON_2_4 = ["Dovecot 2.4 has another syntax: rewrite the rest of dovecot.conf"]


def site(name: str) -> tuple[str, dict[str, Any]]:
    """Its configuration, and what it must come to."""
    return decoded((DATA / f"{name}.conf").read_bytes()), tomllib.loads((DATA / f"{name}.toml").read_text())


def imported(name: str, dovecot: str = "2.3") -> tuple[TakenOver, dict[str, Any]]:
    text, expected = site(name)
    result = taken(text, dovecot, environ=expected.get("environ"), names=expected.get("names"))
    return result, expected


def setting(root: Block, path: str) -> str:
    """A setting by a path such as `service imap-login / executable`."""
    *blocks, key = path.split(" / ")
    return root.get(*(word for block in blocks for word in block.split(" ", 1)), key)


def unmatched(
    notes: Sequence[str], expected: Sequence[Sequence[str]]
) -> tuple[list[str], list[Sequence[str]]]:
    """The notes that nothing expects, and the words that no note has."""

    def fits(note: str, words: Sequence[str]) -> bool:
        return all(word in note for word in words)

    return (
        [note for note in notes if not any(fits(note, words) for words in expected)],
        [words for words in expected if not any(fits(note, words) for note in notes)],
    )


def test_there_are_sixteen_sites() -> None:
    assert len(SITES) == 16


@pytest.mark.parametrize("name", SITES)
def test_the_import_of_a_site_has_the_expected_values(name: str) -> None:
    result, expected = imported(name)
    assert values(result) == expected["director"]


@pytest.mark.parametrize("name", SITES)
def test_the_import_of_a_site_has_exactly_the_expected_notes(name: str) -> None:
    result, expected = imported(name)
    notes = expected["notes"]
    assert unmatched(result.not_carried_over, notes["not_carried_over"]) == ([], [])
    assert unmatched(result.notes, notes["notes"]) == ([], [])
    newer, _ = imported(name, "2.4")
    more = [note for note in newer.notes if note not in result.notes]
    for_24 = [FOR_EVERYBODY_ON_2_4, *notes.get("notes24", [])]
    assert unmatched(more, for_24) == ([], [])


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize(("dovecot", "key"), [("2.3", "dovecot"), ("2.4", "dovecot24")])
def test_the_snippet_for_a_site_has_the_expected_settings(name: str, dovecot: str, key: str) -> None:
    result, expected = imported(name, dovecot)
    root = read(result.dovecot, "snippet").root
    assert {path: setting(root, path) for path in expected[key]} == expected[key]


@pytest.mark.parametrize("name", SITES)
def test_the_director_can_be_started_with_it(name: str, tmp_path: Path) -> None:
    result, expected = imported(name)
    names: Mapping[str, list[str]] = expected.get("names", {})
    own = {"172.16.7.2", "10.77.1.4", "10.3.1.1", *expected.get("own", ())}
    (tmp_path / "director.toml").write_text(result.toml)
    (tmp_path / "ring.secret").write_text("0123456789abcdef0123456789abcdef")
    (tmp_path / "ring.secret").chmod(0o600)
    config = load(
        tmp_path / "director.toml", {}, resolve=lambda name: list(names[name]), local=own.__contains__
    )
    assert config.warnings == ()


@pytest.mark.parametrize("name", [name for name in SITES if "2.2" not in name])
def test_dovecot_2_3_reads_the_site_and_the_snippet_after_it(name: str, tmp_path: Path) -> None:
    """Dovecot accepts the invented configuration of the site, also with the snippet after it."""
    needs("doveconf")
    if Programs().release != "2.3":
        cannot_run("the doveconf of this machine is not that of 2.3")
    text, _ = site(name)
    for protocol, program in (("sieve", "managesieve"), ("submission", "submission")):
        if protocol in text:
            needs(f"/usr/lib/dovecot/{program}")
    file = tmp_path / "dovecot.conf"
    file.write_text(f"{text}\n{imported(name)[0].dovecot}")
    printed = subprocess.run(["doveconf", "-n", "-c", file], capture_output=True, text=True)
    assert "Fatal" not in printed.stderr, printed.stderr
    root = read(printed.stdout, "doveconf").root
    assert root.get("director_servers") == ""
    assert root.get("director_mail_servers") == ""
