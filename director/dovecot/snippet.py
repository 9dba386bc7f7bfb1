"""Settings for a proxy's Dovecot to ask this director instead of its own. Dovecot must read them last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from director.dovecot import paths
from director.dovecot.doveconf import Block
from director.dovecot.listeners import Listener, opened_listener
from director.dovecot.loginservices import LOGIN_SERVICES, LoginService, is_open, login_services
from director.dovecot.variables import DEFAULTS

_RIGHTS = {("auth", "auth-login"): "0660", ("auth", "auth-userdb"): "0666", ("ipc", "ipc"): "0660"}
"""The modes that the lines below give to Dovecot's sockets. Their group becomes Dovecot's own group."""
_DEFAULT_RIGHTS = {"auth-login": "0600", "auth-userdb": "0666", "ipc": "0600"}
_SOCKETS_23 = """# sockets of Dovecot that the director uses if it does not run as root
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
_SOCKETS_24 = """# sockets of Dovecot that the director uses if it does not run as root
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
    """Return the settings to add to the configuration of Dovecot, and notes about them.

    Args:
        dovecot: `2.3` or `2.4`.
    """
    text, notes = _for_23(root, listeners) if dovecot == "2.3" else _for_24(root, listeners)
    return text, [*notes, *_changed_rights(root)]


def _changed_rights(root: Block) -> Iterator[str]:
    """Notes about sockets whose rights the site has set: other clients of these sockets may lose access."""
    internal = root.get("default_internal_group", default=DEFAULTS["default_internal_group"])
    for (service, socket), mode in _RIGHTS.items():
        found = {key: root.get("service", service, "unix_listener", socket, key) for key in ("mode", "group")}
        was = found["mode"] or _DEFAULT_RIGHTS[socket]
        kept = was.lstrip("0") in (mode.lstrip("0"), _DEFAULT_RIGHTS[socket].lstrip("0"))
        if kept and found["group"] in ("", internal):
            continue
        warning = (
            "; with mode 0666 the process of a user can look up this user only"
            if socket == "auth-userdb"
            else ""
        )
        yield (
            f"service {service}, unix_listener {socket}: mode {was}, group {found['group'] or 'not set'},"
            f" becomes mode {mode}, group {internal}, so that the director can connect: check which other"
            f" programs use this socket{warning}"
        )


def _for_23(root: Block, listeners: Sequence[Listener]) -> tuple[str, list[str]]:
    """Settings that override others: without these lines Dovecot runs as before, with its own director."""
    lines = [
        "# For Dovecot 2.3, to be read last: its own director is off, and Dovecot asks this director"
        " instead.",
        "# Without these lines Dovecot runs as before, with its own director.",
        "director_servers =",
        "director_mail_servers =",
        "service director {",
        # a protocol that is not served: Dovecot omits the whole service, with its listeners without a name
        "  protocol = none",
    ]
    for listener in listeners:
        if listener.sort != "inet_listener":
            lines += [f"  {listener.sort} {listener.name} {{", "    mode = 0", "  }"]
    lines += ["}"]
    for service in _asking(root, listeners):
        command = " ".join(service.asking("director/login"))
        lines += [f"service {service.name} {{", f"  executable = {command}", "}"]
    notes = [
        f"{service.name} did not ask the director and still does not: the passdb alone names its users' hosts"
        for service in _not_asking(root, listeners)
    ]
    lines += ["login_proxy_notify_path = director/proxy-notify"]
    userdb, everybody = opened_listener(listeners, "userdb"), root.get("auth_socket_path")
    if userdb is not None and _asks_userdb(root, everybody, listeners):
        base = root.get("base_dir")
        if paths.socket(everybody, base) != paths.socket(userdb.name, base):
            lines += [f"auth_socket_path = {userdb.name}"]
    lines += _look_ups(root, listeners)
    return "\n".join(lines) + "\n" + _SOCKETS_23, notes


def _for_24(root: Block, listeners: Sequence[Listener]) -> tuple[str, list[str]]:
    notes = [
        "Dovecot 2.4 has another syntax: rewrite the rest of dovecot.conf; passdbs must return proxy=y, no"
        " host"
    ]
    asking = _asking(root, listeners)
    if others := _not_asking(root, listeners):
        names = ", ".join(service.name for service in others)
        notes.append(
            f"login_socket_path applies to all login services, so these ask the director now, too: {names}"
        )
    for service in asking:
        if service.name not in LOGIN_SERVICES:
            notes.append(
                f"rewrite service {service.name} for Dovecot 2.4, with executable = {service.program}"
                " and restart_request_count = unlimited; login_socket_path applies to it, too"
            )
    lines = ["# For Dovecot 2.4, to be read last: Dovecot asks the director."]
    if asking:
        lines += ["login_socket_path = director/login"]
    lines += ["login_proxy_notify_path = director/proxy-notify", *_look_ups(root, listeners)]
    if root.in_protocol("lmtp", "lmtp_proxy") == "yes":
        # Debian 13's conf.d/20-lmtp.conf removes the domain: mail would have another name than sessions
        lines += ["lmtp_proxy = yes", "protocol lmtp {", "  auth_username_format = %{user | lower}", "}"]
        if (form := root.get("auth_username_format", default="%Lu")) != "%Lu":
            notes.append(
                f"auth_username_format = {form}: write it, in the syntax of 2.4, into protocol lmtp, too"
            )
    for service in asking:
        # with a process for each session, 2.4 reports that a session was ended although it continues
        if service.name in LOGIN_SERVICES:
            lines += [f"service {service.name} {{", "  restart_request_count = unlimited", "}"]
    return "\n".join(lines) + "\n" + _SOCKETS_24, notes


def _look_ups(root: Block, listeners: Sequence[Listener]) -> list[str]:
    """Settings with which LMTP and doveadm ask this director, if they asked Dovecot's director."""
    socket = opened_listener(listeners, "userdb")
    if socket is None:
        return []
    return [
        line
        for protocol in ("lmtp", "doveadm")
        if _asks_userdb(root, root.in_protocol(protocol, "auth_socket_path"), listeners)
        for line in (f"protocol {protocol} {{", f"  auth_socket_path = {socket.name}", "}")
    ]


def _asks_userdb(root: Block, path: str, listeners: Sequence[Listener]) -> bool:
    """Whether an auth_socket_path is a socket of Dovecot's director."""
    base = root.get("base_dir")
    sockets = {
        paths.socket(listener.name, base)
        for listener in listeners
        if listener.kind == "userdb" and listener.on
    }
    return bool(path) and paths.socket(path, base) in sockets


def _asking(root: Block, listeners: Sequence[Listener]) -> list[LoginService]:
    """The services that ask Dovecot's director."""
    base = root.get("base_dir")
    sockets = [
        paths.socket(listener.name, base)
        for listener in listeners
        if listener.kind == "login" and listener.sort == "unix_listener" and listener.on
    ]
    return [service for service in login_services(root) if service.names(sockets, base)]


def _not_asking(root: Block, listeners: Sequence[Listener]) -> list[LoginService]:
    """The services whose logins do not ask Dovecot's director."""
    protocols = root.get("protocols", default="imap pop3 lmtp").split()
    asking = _asking(root, listeners)
    return [
        service
        for service in login_services(root)
        if service not in asking and service.protocol in protocols and is_open(root, service.name)
    ]
