"""What the lab's client takes from its environment."""

from __future__ import annotations

import pytest

from deploy.lab.client.settings import from_environment


def test_without_any_setting_it_is_the_client_of_the_lab() -> None:
    settings = from_environment({})
    assert (settings.host, settings.ports["sieve"], settings.logins, settings.sessions) == (
        "lb",
        4190,
        20.0,
        30,
    )
    assert (settings.names[0], settings.names[-1]) == ("user001", "user200")


def test_an_empty_setting_is_none() -> None:
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
def test_a_setting_that_cannot_be_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SystemExit, match=f"{name} = {value}: write a "):
        from_environment({name: value})


def test_no_more_sessions_than_users() -> None:
    with pytest.raises(SystemExit, match="CLIENT_SESSIONS = 9"):
        from_environment({"CLIENT_USERS": "8", "CLIENT_SESSIONS": "9"})
