"""Alarms of certificates that end soon, and of secrets that every user can read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from director.net.tls import RingTls
from director.service.configuration.config import Config
from director.service.configuration.configfile import load
from director.service.lifecycle.credentials import DAY, EVENTS, Credentials, FileFindings, look_at
from director.service.log import Log
from tests.certificates import Authority

SETTINGS = """
state = "redis+sentinel://s/mail?password_file=redis.password&sentinel_password_file=sentinel.password"
[backends]
mail_servers = ["127.0.3.1"]
[ring]
servers = ["127.0.3.9", "127.0.3.10"]
listen = "127.0.3.9"
secret_file = "ring.secret"
[http]
token_file = "api.token"
"""
FILES = ("redis.password", "sentinel.password", "ring.secret", "api.token", "ring.key")
NOW = 1_800_000_000.0


class Watch:
    def __init__(self, config: Config | None = None) -> None:
        self.lines: list[str] = []
        self.now = NOW
        log = Log(write=self.lines.append)
        self.files = Credentials(lambda: config or Config(file="", folder=Path("/")), log, clock=self.clock)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def config(tmp_path: Path, authority: Authority) -> Config:
    """With all files of secrets there are; the certificate is good for 3 days."""
    pems = authority.pems("127.0.3.9", days=3)
    for name in FILES:
        (tmp_path / name).write_text("0123456789abcdef\n")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "ring.key").write_bytes(pems.key.read_bytes())
    (tmp_path / "ring.crt").write_bytes(pems.cert.read_bytes())
    tls = f'[ring.tls]\ncert = "ring.crt"\nkey = "ring.key"\nca = "{pems.ca}"\n'
    (tmp_path / "director.toml").write_text(SETTINGS + tls)
    return load(str(tmp_path / "director.toml"), {})


def tls(config: Config) -> RingTls:
    return RingTls(config.ring.tls.cert, config.ring.tls.key, config.ring.tls.ca)


def test_every_file_with_a_secret_is_looked_after(config: Config) -> None:
    assert sorted(Path(path).name for _, path in config.secret_files) == sorted(FILES)
    assert look_at(config, None).readable == ()
    for _, path in config.secret_files:
        Path(path).chmod(0o644)
    assert look_at(config, None).readable == config.secret_files


def test_a_configuration_with_a_password_in_a_url_is_a_secret_too(tmp_path: Path) -> None:
    file = tmp_path / "director.toml"
    file.write_text('state = "redis://director:hunter2@h"\n[backends]\nmail_servers = ["127.0.3.1"]\n')
    config = load(str(file), {})
    assert config.secret_files == (("state", str(file)),)
    assert ["hunter2" in warning for warning in config.warnings] == [False]


def test_the_end_of_certificate_and_authority_in_force_is_found(config: Config) -> None:
    in_force = tls(config)
    Path(config.ring.tls.cert).write_text("another one, which no reload has read")
    ends = look_at(config, in_force).ends
    assert ends.keys() == {config.ring.tls.cert, config.ring.tls.ca}
    assert ends[config.ring.tls.cert] == pytest.approx(time.time() + 3 * DAY, abs=600)


def test_unchanged_files_that_the_director_has_read_are_no_alarm(config: Config) -> None:
    seen = look_at(config, tls(config))
    assert (seen.readable, seen.unusable, seen.changed) == ((), {}, ())


def test_files_that_are_gone_or_empty_are_unusable(config: Config) -> None:
    in_force, key = tls(config), Path(config.ring.tls.key)
    for name in FILES:
        (key.parent / name).unlink()
    gone = look_at(config, in_force)
    assert (gone.readable, gone.changed) == ((), ())
    assert {Path(path).name for path in gone.unusable} == set(FILES)
    assert all("No such file" in problem for problem in gone.unusable.values())
    for name in FILES:
        (key.parent / name).write_text("\ufeff \n")
    empty = look_at(config, in_force).unusable
    assert {name for name in FILES if "is empty" in empty[str(key.parent / name)]} == set(FILES)


@pytest.mark.parametrize("name", ["ring.secret", "api.token"])
def test_a_secret_that_was_changed_is_an_alarm_until_it_is_in_force(config: Config, name: str) -> None:
    file = config.folder / name
    file.write_bytes(b"\xef\xbb\xbf0123456789abcdef\r\n")
    assert look_at(config, None).changed == ()
    file.write_text("another-secret-of-mine\n")
    assert look_at(config, None).changed == (str(file),)
    again = load(config.file, {})
    assert look_at(again, None).changed == ()


def of_another_address(authority: Authority, config: Config) -> None:
    pems = authority.pems("127.0.3.99")
    Path(config.ring.tls.cert).write_bytes(pems.cert.read_bytes())
    Path(config.ring.tls.key).write_bytes(pems.key.read_bytes())


def without_its_key(authority: Authority, config: Config) -> None:
    Path(config.ring.tls.cert).write_bytes(authority.pems("127.0.3.9").cert.read_bytes())


def renewed(authority: Authority, config: Config) -> None:
    pems = authority.pems("127.0.3.9", days=800)
    Path(config.ring.tls.cert).write_bytes(pems.cert.read_bytes())
    Path(config.ring.tls.key).write_bytes(pems.key.read_bytes())


@pytest.mark.parametrize(
    ("change", "unusable", "changed"),
    [
        (of_another_address, "other directors would refuse", False),
        (without_its_key, "is not the key of", False),
        (renewed, None, True),
    ],
)
def test_certificates_on_the_disk_that_are_not_in_force_are_an_alarm(
    config: Config,
    authority: Authority,
    change: Callable[[Authority, Config], None],
    unusable: str | None,
    changed: bool,
) -> None:
    in_force = tls(config)
    change(authority, config)
    seen = look_at(config, in_force)
    assert seen.changed == ((config.ring.tls.cert,) if changed else ())
    assert [unusable in problem for problem in seen.unusable.values() if unusable] == [True] * bool(unusable)


def test_a_file_that_the_directors_user_cannot_read_names_that_user(config: Config) -> None:
    watch = Watch()
    problem = f"ring.tls.key: /k cannot be read by uid {os.geteuid()} (Permission denied)"
    watch.files.take(FileFindings(unusable={"/k": problem}))
    (alarm,) = watch.files.alarms()
    assert (alarm.kind, alarm.about) == ("unusable", "/k")
    assert alarm.text.startswith(problem)
    assert "until it is restarted" in alarm.text
    assert f"event={EVENTS['unusable']}" in watch.lines[0]


@pytest.mark.parametrize(
    ("days", "text"), [(14.1, None), (13.9, "expires in 13.9 days"), (-0.5, "expired 0.5 days ago")]
)
def test_a_certificate_is_an_alarm_from_14_days_before_its_end_on(days: float, text: str | None) -> None:
    watch = Watch()
    watch.files.take(FileFindings(ends={"/etc/ring.crt": NOW + days * DAY}))
    alarms = watch.files.alarms()
    assert [alarm.kind for alarm in alarms] == ([] if text is None else ["certificate"])
    assert len(watch.lines) == len(alarms)
    assert text is None or (text in alarms[0].text and "director reload" in alarms[0].text)


def test_an_alarm_is_logged_once_and_again_when_it_comes_back() -> None:
    watch = Watch()
    bad = FileFindings(readable=(("ring.secret_file", "/etc/ring.secret"),))
    for seen in (bad, bad, FileFindings(), bad):
        watch.files.take(seen)
    assert len(watch.lines) == 2
    for line in watch.lines:
        assert "event=secret_readable" in line
        assert "chmod o-r /etc/ring.secret" in line
