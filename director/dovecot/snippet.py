"""What a proxy's Dovecot must be told to ask our director instead of its own: settings to be read last."""

from __future__ import annotations

from collections.abc import Sequence

from director.dovecot.doveconf import Block
from director.dovecot.listeners import Listener

LOGIN_SERVICES = ("imap-login", "pop3-login", "managesieve-login", "submission-login")

_SOCKETS_23 = """# what the director uses, where it does not run as root
service auth {
  unix_listener auth-login {
    mode = 0660
    group = $default_internal_group
  }
  unix_listener auth-userdb {
    mode = 0666
    group = $default_internal_group
  }
}
service ipc {
  unix_listener ipc {
    mode = 0660
    group = $default_internal_group
  }
}
"""
_SOCKETS_24 = """# what the director uses, where it does not run as root
service auth {
  unix_listener auth-login {
    mode = 0660
    group = $SET:default_internal_group
  }
  unix_listener auth-userdb {
    mode = 0666
    group = $SET:default_internal_group
  }
}
service anvil {
  unix_listener anvil {
    mode = 0660
    group = $SET:default_internal_group
  }
}
"""


def snippet(root: Block, listeners: Sequence[Listener], dovecot: str) -> tuple[str, list[str]]:
    """The settings, and what to mind about them. dovecot: `2.3` or `2.4`."""
    return _for_23(root, listeners) if dovecot == "2.3" else _for_24(root, listeners)


def _for_23(root: Block, listeners: Sequence[Listener]) -> tuple[str, list[str]]:
    """Overrides, all of them: without this text Dovecot is as it was, its own director included."""
    lines = [
        "# Dovecot 2.3: read last. Its own director is off, login processes ask the other one.",
        "# Without this text everything is as before.",
        "director_servers =",
        "director_mail_servers =",
        "service director {",
        # of no protocol that is served: the whole service is left out, listeners without a name too
        "  protocol = none",
    ]
    for one in listeners:
        if one.sort != "inet_listener":
            lines += [f"  {one.sort} {one.name} {{", "    mode = 0", "  }"]
    lines += ["}"]
    mind = []
    for service, arguments in _asking(root, listeners):
        lines += [f"service {service} {{", f"  executable = {' '.join(arguments)}", "}"]
    for service in _not_asking(root, listeners):
        mind.append(
            f"{service} did not ask the director, and does not now: its users go where the passdb says"
        )
    lines += ["login_proxy_notify_path = director/proxy-notify", *_look_ups(root, listeners)]
    return "\n".join(lines) + "\n" + _SOCKETS_23, mind


def _for_24(root: Block, listeners: Sequence[Listener]) -> tuple[str, list[str]]:
    mind = [
        "for Dovecot 2.4 the rest of dovecot.conf is to be written anew; passdbs must return proxy=y, no host"
    ]
    asking = [service for service, _ in _asking(root, listeners)]
    if others := _not_asking(root, listeners):
        mind.append(
            f"login_socket_path is for all login services: {', '.join(others)} asks the director too now"
        )
    lines = ["# Dovecot 2.4: read last."]
    if asking:
        lines += ["login_socket_path = director/login"]
    lines += ["login_proxy_notify_path = director/proxy-notify", *_look_ups(root, listeners)]
    if root.get("lmtp_proxy") == "yes":
        # Debian 13's conf.d/20-lmtp.conf cuts the domain off: mail would go by another name than sessions
        lines += ["lmtp_proxy = yes", "protocol lmtp {", "  auth_username_format = %{user | lower}", "}"]
        if (form := root.get("auth_username_format", default="%Lu")) != "%Lu":
            mind.append(
                f"auth_username_format = {form}: the same in 2.4's words belongs into protocol lmtp, too"
            )
    for service in asking:
        # with a process for each session, 2.4 says that it has ended a session, and has not
        lines += [f"service {service} {{", "  restart_request_count = unlimited", "}"]
    return "\n".join(lines) + "\n" + _SOCKETS_24, mind


def _look_ups(root: Block, listeners: Sequence[Listener]) -> list[str]:
    """LMTP and doveadm go on to use the socket that they used; it has the same name."""
    names = {one.name for one in listeners if one.kind == "userdb" and one.on}
    return [
        line
        for protocol in ("lmtp", "doveadm")
        if (path := root.get("protocol", protocol, "auth_socket_path")) in names and path
        for line in (f"protocol {protocol} {{", f"  auth_socket_path = {path}", "}")
    ]


def _asking(root: Block, listeners: Sequence[Listener]) -> list[tuple[str, list[str]]]:
    """The login services that asked the built-in director, each with the command that asks ours."""
    found = []
    for service in LOGIN_SERVICES:
        words = root.get("service", service, "executable").split()
        at = _socket(words, listeners)
        if at:
            found.append((service, [*words[:at], "director/login", *words[at + 1 :]]))
    return found


def _not_asking(root: Block, listeners: Sequence[Listener]) -> list[str]:
    served = root.get("protocols", default="imap pop3 lmtp").split()
    protocol = {"managesieve-login": "sieve"}
    asking = {service for service, _ in _asking(root, listeners)}
    return [
        service
        for service in LOGIN_SERVICES
        if service not in asking and protocol.get(service, service.removesuffix("-login")) in served
    ]


def _socket(words: Sequence[str], listeners: Sequence[Listener]) -> int:
    """Where in a command line the director's socket stands; 0 where it does not."""
    names = {one.name.removeprefix("login/") for one in listeners if one.kind == "login" and one.on}
    return next((at for at, word in enumerate(words) if at and word in names), 0)
