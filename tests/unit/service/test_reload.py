"""The changes that a reload applies, and when."""

from __future__ import annotations

from pathlib import Path

from director.service.configuration.config import Config
from director.service.configuration.configfile import load
from director.service.lifecycle.reload import LIVE, compare, limits, live

GOOD = """
state = "memory:"
[backends]
mail_servers = ["127.0.3.1"]
"""


def config(folder: Path, more: str = "") -> Config:
    file = folder / "director.toml"
    file.write_text(GOOD + more)
    return load(str(file), {})


def test_the_same_file_changes_nothing(tmp_path: Path) -> None:
    assert compare(config(tmp_path), config(tmp_path)) == ([], [])


def test_what_is_live_counts_at_once_and_the_rest_is_named(tmp_path: Path) -> None:
    old = config(tmp_path)
    more = '[users]\nkick_delay = "5 s"\nmax = 9\nexpire = "1 h"\n[log]\nlevel = "debug"\nformat = "json"\n'
    new = config(tmp_path, more)
    assert compare(old, new) == (
        ["log.level", "users.kick_delay", "users.max"],
        ["log.format", "users.expire"],
    )
    counts = live(old, new)
    assert (limits(counts).kick_delay, limits(counts).max_users) == (5.0, 9)
    assert (counts.log.level, counts.log.format, counts.users.expire) == ("debug", "logfmt", 900.0)


def test_what_needs_a_replacement_is_named_again_until_it_was_replaced(tmp_path: Path) -> None:
    old, new = config(tmp_path), config(tmp_path, '[users]\nexpire = "1 h"\nkick_delay = "5 s"\n')
    assert compare(live(old, new), new) == ([], ["users.expire"])


def test_a_host_more_in_the_file_is_live(tmp_path: Path) -> None:
    old = config(tmp_path)
    (tmp_path / "director.toml").write_text(GOOD.replace('"127.0.3.1"', '"127.0.3.1", "127.0.3.2@gold"'))
    new = load(str(tmp_path / "director.toml"), {})
    assert compare(old, new).applied == ["backends.mail_servers"]
    assert live(old, new).backends == new.backends


def with_files(folder: Path, secret: str, token: str) -> Config:
    (folder / "ring.secret").write_text(secret)
    (folder / "api.token").write_text(token)
    more = '[http]\ntoken_file = "api.token"\n[ring]\nservers = ["127.0.3.9"]\nlisten = "127.0.3.9"\n'
    return config(folder, more + ('secret_file = "ring.secret"\n' if secret else ""))


def test_the_content_of_secret_files_is_live(tmp_path: Path) -> None:
    old = with_files(tmp_path, "0123456789abcdef\n", "one")
    new = with_files(tmp_path, "0123456789abcdef\nfedcba9876543210\n", "other")
    assert compare(old, new) == (["http.token_file", "ring.secret_file"], [])
    counts = live(old, new)
    assert counts.ring.secrets == (b"0123456789abcdef", b"fedcba9876543210")
    assert counts.http.token == b"other"


def test_a_director_gets_its_first_secret_with_a_new_program(tmp_path: Path) -> None:
    old, new = with_files(tmp_path, "", "one"), with_files(tmp_path, "0123456789abcdef\n", "one")
    assert compare(old, new) == ([], ["ring.secret_file"])
    assert live(old, new).ring.secrets == ()


def test_every_live_setting_is_one(tmp_path: Path) -> None:
    sections = config(tmp_path)
    for name in LIVE:
        section, _, field = name.partition(".")
        assert hasattr(getattr(sections, section), field), name


def test_other_addresses_of_the_same_names_are_no_change_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "director.toml"
    file.write_text('state = "memory:"\n[backends]\nmail_servers = ["one", "two@gold"]\n')
    tables = {"one": ["127.0.3.1"], "two": ["127.0.3.2"]}, {"one": ["127.0.3.9"], "two": ["127.0.3.1"]}
    old, new = (load(str(file), {}, resolve=table.__getitem__) for table in tables)
    assert compare(old, new) == ([], [])
    file.write_text(file.read_text().replace('"one"', '"three"'))
    newest = load(str(file), {}, resolve={"three": ["127.0.3.9"], "two": ["127.0.3.1"]}.__getitem__)
    assert compare(old, newest) == (["backends.mail_servers"], [])
