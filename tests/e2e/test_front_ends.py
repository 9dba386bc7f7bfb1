"""A director passes on what a passdb may answer, and what a proxy knows of its clients, as a plain proxy
does: hosts, other names, tags, TLS to the backend, failures, and the real address of a client.
"""

from __future__ import annotations

import pytest

from director.demo.clients import Refused
from director.demo.process import ServeProcess
from tests.e2e import mail
from tests.e2e.processes import until
from tests.e2e.site import KINDS, PASSWORD, STRANGER, Entrance, is_refused
from tests.e2e.visits import PROTOCOLS, SESSIONS, landed

CLIENT = "203.0.113.7"
TEMPORARY = {
    "imap": "a NO [UNAVAILABLE] Temporary authentication failure.",
    "pop3": "-ERR [SYS/TEMP] Temporary authentication failure.",
    "submission": "454 4.7.0 Temporary authentication failure.",
    "sieve": 'NO (TRYLATER) "Temporary authentication failure.',
    "lmtp": "451 4.3.0 <{user}> Temporary user lookup failure",
    "doveadm": "75: ",
}
FORWARDING = {
    "imap": [f'a ID ("x-originating-ip" "{CLIENT}" "x-originating-port" "4242")'],
    "pop3": [f"XCLIENT ADDR={CLIENT} PORT=4242"],
    "submission": [f"XCLIENT ADDR={CLIENT} PORT=4242", "EHLO client.example"],
    "sieve": [f"XCLIENT ADDR={CLIENT} PORT=4242"],
}
"""The command by which a proxy in front of this proxy names a client's address."""


def is_assigned(director: ServeProcess, user: str, tag: str = "") -> bool:
    """Whether the user of this tag is assigned."""
    options = ["-t", tag] if tag else []
    return director.ask("status", user, *options)["current"] is not None


# ---- answers of the passdb


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_user_has_one_backend_for_all_protocols(entrance: Entrance, protocol: str) -> None:
    user = entrance.user("everywhere")
    assert landed(entrance, protocol, user) == landed(entrance, "imap", user)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_host_that_the_passdb_names_is_not_changed(entrance: Entrance, protocol: str) -> None:
    users = [entrance.user(f"fixed{number}-{protocol}") for number in range(3)]
    assert {landed(entrance, protocol, user) for user in users} == {"b3"}
    if entrance.director is not None:
        assert not any(is_assigned(entrance.director, user) for user in users)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tag_selects_the_backends_of_its_pool(entrance: Entrance, protocol: str) -> None:
    user = entrance.user(f"gold-{protocol}")
    assert landed(entrance, protocol, user) == "b4"
    if entrance.director is not None:
        assert (is_assigned(entrance.director, user, "gold"), is_assigned(entrance.director, user)) == (
            True,
            False,
        )


@pytest.mark.parametrize("protocol", SESSIONS)
def test_a_user_with_another_name_at_the_backend_is_on_the_host_of_that_name(
    entrance: Entrance, protocol: str
) -> None:
    user = entrance.user(f"alias-{protocol}")
    box = f"{user}-box"

    def visit() -> None:
        with entrance.connect(protocol) as session:
            session.log_in(user)

    assert entrance.site.landed(protocol, box, visit) == entrance.backend_of(box)


@pytest.mark.parametrize("protocol", SESSIONS)
def test_a_login_by_the_proxies_master_user_goes_to_the_backend_of_the_user(
    entrance: Entrance, protocol: str
) -> None:
    """The passdb gives the backend the name `USER*keeper`; USER has one backend for every keeper."""
    user = entrance.user(f"kept-{protocol}")
    assert landed(entrance, protocol, user) == entrance.backend_of(user)


@pytest.mark.parametrize("how", ["ssl", "starttls"])
def test_a_backend_is_reached_over_tls_if_the_passdb_says_so(entrance: Entrance, how: str) -> None:
    user = entrance.user(how)
    backend = landed(entrance, "imap", user)
    assert backend == entrance.backend_of(user)
    assert ", TLS, " in entrance.site.logged(backend, user)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_failing_passdb_is_reported_in_dovecots_words(entrance: Entrance, protocol: str) -> None:
    user = entrance.user("broken")
    with pytest.raises(Refused) as refusal:
        landed(entrance, protocol, user)
    assert refusal.value.reply.startswith(TEMPORARY[protocol].format(user=user))


# ---- the client's address


@pytest.mark.parametrize("protocol", KINDS)
def test_the_backend_learns_the_address_of_a_client_behind_a_load_balancer(
    entrance: Entrance, protocol: str
) -> None:
    user = entrance.user(f"balanced-{protocol}")

    def visit() -> None:
        with entrance.connect_behind(protocol, CLIENT) as session:
            session.log_in(user)

    backend = entrance.site.landed(protocol, user, visit)
    assert backend == entrance.backend_of(user)
    assert f"rip={CLIENT}, " in entrance.site.logged(backend, user)


def test_an_untrusted_client_may_not_use_the_proxy_protocol(entrance: Entrance) -> None:
    port = entrance.port("imap", "haproxy")
    assert is_refused(entrance.address, port, STRANGER, f"PROXY TCP4 {CLIENT} {entrance.address} 4242 143")


@pytest.mark.parametrize("protocol", KINDS)
def test_the_backend_learns_the_client_address_that_a_trusted_client_names(
    entrance: Entrance, protocol: str
) -> None:
    user = entrance.user(f"forwarded-{protocol}")

    def visit() -> None:
        with entrance.connect(protocol) as session:
            for command in FORWARDING[protocol]:
                session.command(command)
            session.log_in(user, PASSWORD)

    backend = entrance.site.landed(protocol, user, visit)
    assert backend == entrance.backend_of(user)
    assert f"rip={CLIENT}, " in entrance.site.logged(backend, user)


def test_the_backend_learns_the_address_that_a_mail_came_from(entrance: Entrance) -> None:
    user = entrance.user("posted")
    client = "203.0.113.21" if entrance.director else "203.0.113.22"

    def visit() -> None:
        with mail.Lmtp(entrance.address, entrance.site.ports.lmtp) as link:
            link.command(f"XCLIENT ADDR={client} PORT=4242")
            link.command("LHLO client.example")
            link.recipient(user)
            link.data()
            link.command("QUIT")

    backend = entrance.site.landed("lmtp", user, visit)
    assert backend == entrance.backend_of(user)
    log = entrance.site.cluster.backend(backend).log
    until(lambda: f"Disconnect from {client}: " in log(), what=f"{backend} has heard of {client}")
