"""The settings that the lab's client takes from its environment."""

from __future__ import annotations

import pytest

from deploy.lab.client.settings import from_environment


def test_without_settings_the_client_is_that_of_the_lab() -> None:
    settings = from_environment({})
    assert (settings.host, settings.ports["sieve"], settings.logins, settings.sessions) == (
        "lb",
        4190,
        20.0,
        30,
    )
    assert (settings.names[0], settings.names[-1]) == ("user001", "user200")


def test_an_empty_setting_counts_as_missing() -> None:
    assert from_environment({"CLIENT_USERS": ""}).users == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLIENT_USERS", "many"),
        ("CLIENT_USERS", "2.5"),
        ("CLIENT_LOGINS", "0"),
        ("CLIENT_LOGINS", "nan"),
        ("IMAP_PORT", "0"),
    ],
)
def test_an_impossible_setting_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SystemExit, match=f"{name} = {value}: write a "):
        from_environment({name: value})


def test_more_sessions_than_users_are_refused() -> None:
    with pytest.raises(SystemExit, match="CLIENT_SESSIONS = 9"):
        from_environment({"CLIENT_USERS": "8", "CLIENT_SESSIONS": "9"})
