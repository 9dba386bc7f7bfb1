"""The URLs that name a store, and the reasons for which other URLs are refused."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest

from state.base import StateStore, StoreUrlError
from state.passwords import PasswordFileError, read_password
from state.urls import open_store

SECRET = "hunter2"


def shown(url: str, *, base_dir: Path = Path("/etc/director")) -> str:
    return open_store(url, base_dir=base_dir).url


def refusal(url: str, *, base_dir: Path = Path("/etc/director")) -> StoreUrlError:
    with pytest.raises(StoreUrlError) as caught:
        open_store(url, base_dir=base_dir)
    return caught.value


@pytest.mark.shows("S-94")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory:", "memory:"),
        ("sqlite:///state.db", "sqlite:///state.db"),
        ("sqlite:////var/lib/director/state.db", "sqlite:////var/lib/director/state.db"),
        ("redis://10.0.0.9", "redis://10.0.0.9:6379/0?prefix=dd:"),
        ("redis://u:hunter2@redis.example.com:7000/3", "redis://u@redis.example.com:7000/3?prefix=dd:"),
        ("redis://:hunter2@[::1]:6379", "redis://[::1]:6379/0?prefix=dd:"),
        ("rediss://host?prefix=mail:&username=u", "rediss://u@host:6379/0?prefix=mail:"),
        ("redis://host?prefix=", "redis://host:6379/0?prefix="),
        ("redis+sentinel://h1,h2:7/mail", "redis+sentinel://h1:26379,h2:7/mail/0?prefix=dd:"),
        (
            "rediss+sentinel://u:hunter2@h1,[::1]:7/mail/2?prefix=m:&sentinel_username=s",
            "rediss+sentinel://u@h1:26379,[::1]:7/mail/2?prefix=m:",
        ),
        ("redis+cluster://u:hunter2@h1,h2:7000", "redis+cluster://u@h1:6379,h2:7000?prefix=dd:"),
        ("rediss+cluster://[::1]/?prefix=m:", "rediss+cluster://[::1]:6379?prefix=m:"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2&prefix=dd:"),
        ("unix://u:hunter2@/run/redis.sock", "unix://u@/run/redis.sock?db=0&prefix=dd:"),
    ],
)
def test_a_store_shows_its_url_without_secrets(url: str, expected: str) -> None:
    assert shown(url) == expected


@pytest.mark.shows("S-88")
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "not the URL of a store"),
        ("state.db", "not the URL of a store"),
        ("postgres://host/db", "not the URL of a store"),
        ("memory:x", "nothing after the colon"),
        ("sqlite:state.db", "no file is named"),
        ("sqlite://state.db", "a host name stands where a third slash belongs"),
        ("sqlite:///", "no file is named"),
        ("sqlite:///folder/", "no file is named"),
        ("sqlite:///state.db?mode=ro", "no options"),
        ("redis://", "no host is named"),
        ("redis://host:0", "no host is named"),
        ("redis://host:99999", "no number from 1 to 65535"),
        ("redis://host/x", "database 'x'"),
        ("redis://host?db=1", "no option 'db'"),
        ("redis://host?timeout=1", "no option 'timeout'"),
        ("redis://host?prefix=a&prefix=b", "prefix is given twice"),
        ("redis://host?prefix={x}", "prefix = '{x}'"),
        ("redis://u@host?username=u", "named twice"),
        ("redis://[::1", "not a URL"),
        ("redis+sentinel://h1,h2", "no service is named"),
        ("redis+sentinel://h1,,h2/mail", "no host is named"),
        ("redis+sentinel://h1,h2:x/mail", "no number from 1 to 65535"),
        ("redis+sentinel://h1/mail/x", "database 'x'"),
        ("redis://host?sentinel_username=u", "no option 'sentinel_username'"),
        ("redis+cluster://h1,h2/1", "a Cluster has only database 0"),
        ("redis+cluster://h1,[::1", "not a URL"),
        ("unix://run/redis.sock", "no socket is named"),
        ("unix:///", "no socket is named"),
        ("unix:///run/s?db=-1", "database '-1'"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_the_reason_and_the_right_form(
    url: str, problem: str
) -> None:
    failure = refusal(url)
    assert problem in f"{failure.problem}; {failure.expected}"
    assert failure.expected


@pytest.mark.shows("S-88")
@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@host:port",
        "redis://u:hunter2@host/x",
        "redis://u:hunter2@host?what=1",
        "redis://u:a/hunter2@host",
        "redis://u:hunter2/a@host",
        "redis://u:a?hunter2@host",
        "redis://u:a#hunter2@host",
        "redis://u:hunter2@host?password_file=x",
        "redis://u:hunter2",
        "redis://host?password=hunter2",
        "redis://[u:hunter2@host",
        "redis+sentinel://u:hunter2@h1,h2",
        "redis+sentinel://h1,u:hunter2",
        "redis+cluster://u:hunter2@h1,h2:x",
        "redis+cluster://h1,u:hunter2@h2/1",
        "redis:u:hunter2@host",
        "postgres://u:hunter2@host/db",
        "unix://u:hunter2@host/run/s",
    ],
)
def test_no_refusal_shows_a_password(url: str) -> None:
    failure = refusal(url)
    text = "".join(traceback.format_exception(failure, chain=True)) + repr(failure) + repr(vars(failure))
    assert SECRET not in text.replace(f'"{url}"', "")


@pytest.mark.shows("S-94")
def test_no_text_of_a_store_shows_its_password() -> None:
    store: StateStore = open_store(f"redis://u:{SECRET}@host", base_dir=Path("/"))
    assert SECRET not in f"{store!r} {vars(store)!r} {store}"


def test_redis_without_its_libraries_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "state.redis",
        "state.redis_clients",
        "state.redis_link",
        "state.locks",
        "state.migrate_redis",
        "state.cluster",
        "state.sentinel",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "redis_lock", None)
    failure = refusal("redis://host")
    assert (failure.problem, failure.expected) == ("redis_lock is not installed", "install the extra `redis`")
    assert shown("sqlite:///state.db") == "sqlite:///state.db"


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    failure = refusal("redis://host?password_file=none", base_dir=tmp_path)
    assert failure.problem == f"password_file = '{tmp_path}/none': No such file or directory"


def test_a_password_file_for_the_sentinels_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    failure = refusal("redis+sentinel://h1/mail?sentinel_password_file=none", base_dir=tmp_path)
    assert failure.problem == f"sentinel_password_file = '{tmp_path}/none': No such file or directory"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_password_in_utf_16_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "password").write_bytes("hunter2\r\n".encode(encoding))
    with pytest.raises(PasswordFileError, match="save it as UTF-8"):
        read_password(tmp_path / "password")


def test_a_password_file_of_several_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("hunter2\nhunter3\n")
    with pytest.raises(PasswordFileError, match="several lines"):
        read_password(tmp_path / "p")


def test_a_password_file_made_on_windows_holds_the_password_alone(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"\xef\xbb\xbfhunter2\r\n")
    assert read_password(tmp_path / "p") == "hunter2"


def test_an_empty_password_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("\n")
    failure = refusal("redis://host?password_file=secret", base_dir=tmp_path)
    assert failure.problem == f"password_file = '{tmp_path}/secret': it is empty"


def test_a_database_number_of_thousands_of_digits_is_refused() -> None:
    assert "a Redis database is a number" in str(refusal("redis://h/" + "9" * 5000))


def test_a_refusal_is_one_line_for_any_url() -> None:
    assert "\n" not in str(refusal("nothing\nknown://a"))
