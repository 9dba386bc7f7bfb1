"""Checks of the login services in Dovecot's configuration: whether each of them asks the director."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from director.doctor.facts import Facts
from director.doctor.findings import FAULT, OK, WARNING, Finding, block
from director.dovecot import loginservices, paths
from director.dovecot.doveconf import Doveconf
from director.dovecot.loginservices import LOGIN_SERVICES, LoginService

LOGIN_PROTOCOLS = tuple(protocol for protocol, _ in LOGIN_SERVICES.values())
"""Protocols with login processes: `imap`, `pop3`, …."""
UNLIMITED = ("0", "unlimited")


def check(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    """Findings about the socket that login processes use, and about how many logins a process serves."""
    yield from _sockets(facts, conf)
    yield from _processes(facts, conf)


def protocols(conf: Doveconf) -> list[str]:
    """Protocols that are on, such as `imap`. 2.4 may write them as a block."""
    # `doveconf -n` omits 2.3's default. A build with another default, such as Debian's, prints the protocols.
    default = "imap pop3 lmtp" if conf.release == "2.3" else ""
    listed = conf.root.get("protocols", default=default).split()
    for blocks in conf.root.all("protocols"):
        listed += [name for name, on in blocks.settings.items() if on == "yes"]
    return [name for name in dict.fromkeys(listed) if name != "none"]


def in_use(conf: Doveconf) -> list[LoginService]:
    """The login services that clients can reach: Dovecot's own, and services that the site has added."""
    on = protocols(conf)
    found = []
    for service in loginservices.login_services(conf.root):
        wanted = conf.root.get("service", service.name, "protocol")
        served = service.protocol in on if service.name in LOGIN_SERVICES else not wanted or wanted in on
        # Other services with an argument are not login services, for example `quota-status -p postfix`.
        if service.protocol and served and loginservices.is_open(conf.root, service.name):
            found.append(service)
    return found


def below(path: str, folder: str) -> str:
    """`path` relative to `folder`; empty if `path` is not below `folder`."""
    prefix = folder.rstrip("/") + "/"
    return path.removeprefix(prefix) if path.startswith(prefix) else ""


def _finding(level: str, check: str, found: str, why: str = "", fix: tuple[str, ...] = ()) -> Finding:
    return Finding(area="dovecot", level=level, check=check, found=found, why=why, fix=fix)


def _sockets(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    settings = facts.settings
    wanted = below(settings.login, f"{settings.base_dir}/login")
    services = in_use(conf)
    if not services:
        yield _finding(OK, "login_socket", "no login service is in use")
        return
    if not settings.login:
        names = ", ".join(dict.fromkeys(service.protocol for service in services))
        why = f"logins of {names} do not ask the director"
        yield _finding(WARNING, "login_socket", "listen.login.path is empty", why)
        return
    if "/" not in wanted:
        why = (
            "Dovecot removes sockets directly in login/ when it starts, or refuses to start"
            if wanted
            else "login processes cannot reach files outside of login/, their chroot"
        )
        path = f"{settings.base_dir}/login/director/login"
        yield _finding(
            FAULT,
            "login_socket",
            f"the director listens at {settings.login}",
            why,
            ("[listen.login]           # director.toml", f'path = "{path}"'),
        )
        return
    if conf.release == "2.4":
        yield from _socket_paths(conf, wanted)
        # A socket in the command takes precedence over login_socket_path (observed with 2.4.1).
        services = [service for service in services if service.at]
    for service in services:
        if service.socket(settings.base_dir) == paths.folder(settings.login):
            yield _finding(OK, "login_socket", f"{service.name} asks at {wanted}")
            continue
        # A service that the site has added may ask auth on purpose: a warning only.
        meant = service.name in LOGIN_SERVICES or service.at
        program, *words = service.asking(wanted)
        command = " ".join([posixpath.basename(program), *words])
        yield _finding(
            FAULT if meant else WARNING,
            "login_socket",
            f"{service.name}: executable = {' '.join(service.command)}",
            f"logins of {service.name.removesuffix('-login')} do not ask the director",
            block("service", service.name, f"executable = {command}"),
        )


def _socket_paths(conf: Doveconf, wanted: str) -> Iterator[Finding]:
    """Findings about 2.4's login_socket_path, which a protocol may set for itself."""
    general = conf.root.get("login_socket_path")
    names = list(dict.fromkeys(service.protocol for service in in_use(conf) if not service.at))
    if not names:
        return
    found_at = {name: conf.root.in_protocol(name, "login_socket_path") for name in names}
    wrong = {name: path for name, path in found_at.items() if path != wanted}
    if not wrong:
        yield _finding(OK, "login_socket", f"login_socket_path = {wanted}")
    elif general != wanted and all(path == general for path in wrong.values()):
        found = f"login_socket_path = {general}".rstrip()
        why = f"logins of {', '.join(wrong)} do not ask the director"
        yield _finding(FAULT, "login_socket", found, why, (f"login_socket_path = {wanted}",))
    else:
        for name, path in wrong.items():
            found = f"protocol {name}: login_socket_path = {path}".rstrip()
            why = f"logins of {name} do not ask the director"
            fix = block("protocol", name, f"login_socket_path = {wanted}")
            yield _finding(FAULT, "login_socket", found, why, fix)


def _processes(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    setting, unlimited = (
        ("service_count", "0") if conf.release == "2.3" else ("restart_request_count", "unlimited")
    )
    for service in in_use(conf):
        # By default only processes of Dovecot's own services end after one client.
        default = "1" if service.name in LOGIN_SERVICES else unlimited
        count = conf.root.get("service", service.name, setting, default=default)
        if count in UNLIMITED:
            yield _finding(OK, "login_processes", f"{service.name}: {setting} = {count}")
            continue
        why = "each login starts a process and opens a connection to the director"
        level = WARNING
        if conf.release == "2.4":
            why = "anvil reports sessions as ended that continue: moved users stay on two backends"
            if facts.director_as.is_root:
                why += "; this director runs as root and ends such sessions one by one"
            else:
                level = FAULT
        yield _finding(
            level,
            "login_processes",
            f"{service.name}: {setting} = {count}",
            why,
            block("service", service.name, f"{setting} = {unlimited}"),
        )
