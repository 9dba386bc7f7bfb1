"""Logins of all kinds, by every protocol: TLS, SASL mechanisms, master users. The plain proxy answers the
same."""

from __future__ import annotations

import pytest

from director.demo.clients import Refused
from tests.e2e import mail
from tests.e2e.mail import Sasl
from tests.e2e.site import KINDS, MASTER, MASTER_PASSWORD, PASSWORD, Entrance

PROTOCOLS = list(KINDS)
NO_PASSWORD = {
    "2.3": {
        "imap": "a NO [UNAVAILABLE] Account is temporarily unavailable.",
        "pop3": "-ERR [SYS/TEMP] Account is temporarily unavailable.",
        "submission": "the server closed the connection",
        "sieve": 'NO (TRYLATER) "Account is temporarily unavailable."',
    },
    "2.4": {
        "imap": "a NO [UNAVAILABLE] Temporary authentication failure.",
        "pop3": "-ERR [SYS/TEMP] Temporary authentication failure.",
        "submission": "454 4.7.0 Temporary authentication failure.",
        "sieve": 'NO (TRYLATER) "Temporary authentication failure."',
    },
}
"""The answer of a login process that did not get the password and so has none for the backend."""
CANCELLED = {
    "imap": "a BAD Authentication aborted by client.",
    "pop3": "-ERR Authentication aborted by client.",
    "submission": "501 5.5.2 Authentication aborted by client.",
    "sieve": 'NO "Authentication aborted by client."',
}
AGAIN = True
"""A second attempt sends its response with the command: managesieve-login takes a response of its own as the
last response of the first attempt."""


def authenticated(entrance: Entrance, protocol: str, user: str, sasl: Sasl, initial: bool = False) -> str:
    """Log in by this mechanism, and return the backend."""

    def visit() -> None:
        with entrance.connect(protocol) as session:
            session.authenticate(sasl, initial=initial)
            session.noop()

    return entrance.site.landed(protocol, user, visit)


@pytest.mark.parametrize("initial", [False, True], ids=["challenged", "initial"])
@pytest.mark.parametrize("mechanism", [mail.plain, mail.login], ids=["PLAIN", "LOGIN"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_password_reaches_the_users_backend_by_plain_and_login(
    entrance: Entrance, protocol: str, mechanism: type[Sasl], initial: bool
) -> None:
    user = entrance.user(f"sasl-{protocol}")
    backend = authenticated(entrance, protocol, user, mechanism(user, "any"), initial)
    assert backend == entrance.backend_of(user)


@pytest.mark.parametrize("mechanism", [mail.cram_md5, mail.scram_sha_256], ids=["CRAM-MD5", "SCRAM-SHA-256"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mechanism_of_several_steps_reaches_the_users_backend_with_a_password_of_the_passdb(
    entrance: Entrance, protocol: str, mechanism: type[Sasl]
) -> None:
    user = entrance.user(f"strict-{protocol}")
    backend = authenticated(entrance, protocol, user, mechanism(user, PASSWORD))
    assert backend == entrance.backend_of(user)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scram_with_an_initial_response_reaches_the_users_backend(entrance: Entrance, protocol: str) -> None:
    user = entrance.user(f"strict-initial-{protocol}")
    backend = authenticated(entrance, protocol, user, mail.scram_sha_256(user, PASSWORD), initial=True)
    assert backend == entrance.backend_of(user)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mechanism_that_leaves_no_password_for_the_backend_is_refused_by_the_login_process(
    entrance: Entrance, protocol: str
) -> None:
    user = entrance.user("nopass")
    with entrance.connect(protocol) as session, pytest.raises((Refused, ConnectionError)) as refusal:
        session.authenticate(mail.scram_sha_256(user, PASSWORD))
    assert str(refusal.value) == NO_PASSWORD[entrance.proxy.programs.release][protocol]


@pytest.mark.parametrize(
    "mechanism",
    [mail.plain, mail.login, mail.cram_md5],
    ids=["PLAIN", "LOGIN", "CRAM-MD5"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_password_is_refused_and_a_right_one_gets_in_on_the_same_connection(
    entrance: Entrance, protocol: str, mechanism: type[Sasl]
) -> None:
    user = entrance.user(f"strict-again-{protocol}")
    with entrance.connect(protocol) as session:
        with pytest.raises(Refused, match=r"Authentication failed\."):
            session.authenticate(mechanism(user, "wrong"))
        session.authenticate(mail.plain(user, PASSWORD), initial=AGAIN)
        session.noop()


@pytest.mark.parametrize(
    "sasl",
    [mail.plain("strictly"), mail.login("strictly"), mail.scram_sha_256("strictly", PASSWORD)],
    ids=["PLAIN", "LOGIN", "SCRAM-SHA-256"],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_cancels_an_exchange_logs_in_on_the_same_connection(
    entrance: Entrance, protocol: str, sasl: Sasl
) -> None:
    user = entrance.user(f"undecided-{protocol}")
    with entrance.connect(protocol) as session:
        with pytest.raises(Refused) as refusal:
            session.authenticate(mail.given_up(sasl))
        session.authenticate(mail.plain(user), initial=AGAIN)
        session.noop()
    assert refusal.value.reply == CANCELLED[protocol]


@pytest.mark.parametrize("protocol", [protocol for protocol in PROTOCOLS if protocol != "sieve"])
def test_a_login_by_tls_lands_on_the_users_backend(entrance: Entrance, protocol: str) -> None:
    """ManageSieve has no port of its own for TLS."""
    user = entrance.user(f"tls-{protocol}")

    def visit() -> None:
        with entrance.connect_tls(protocol) as session:
            session.log_in(user)
            session.noop()

    assert entrance.site.landed(protocol, user, visit) == entrance.backend_of(user)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_login_after_starttls_lands_on_the_users_backend(entrance: Entrance, protocol: str) -> None:
    user = entrance.user(f"starting-{protocol}")

    def visit() -> None:
        with entrance.connect(protocol) as session:
            session.start_tls(entrance.site.tls)
            session.log_in(user)
            session.noop()

    assert entrance.site.landed(protocol, user, visit) == entrance.backend_of(user)


@pytest.mark.parametrize("how", ["separator", "authzid"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_master_user_lands_on_the_backend_of_the_mails_owner(
    entrance: Entrance, protocol: str, how: str
) -> None:
    user = entrance.user(f"watched-{protocol}")
    sasl = (
        mail.plain(f"{user}*{MASTER}", MASTER_PASSWORD)
        if how == "separator"
        else mail.plain(MASTER, MASTER_PASSWORD, authzid=user)
    )
    backend = authenticated(entrance, protocol, user, sasl)
    assert backend == entrance.backend_of(user)
    assert backend == authenticated(entrance, protocol, user, mail.plain(user))
