"""Login services in Dovecot's configuration: whether each asks the director, whatever its name is."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from director.doctor.facts import Facts
from director.doctor.findings import FAULT, OK, WARNING, Finding, block
from director.dovecot import loginservices, paths
from director.dovecot.doveconf import Doveconf
from director.dovecot.loginservices import LOGIN_SERVICES, LoginService

LOGIN_PROTOCOLS = tuple(protocol for protocol, _ in LOGIN_SERVICES.values())
"""`imap`, `pop3`, …: those with login processes."""
UNLIMITED = ("0", "unlimited")


def check(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    """Where the login processes ask, and how many of them there are."""
    yield from _sockets(facts, conf)
    yield from _processes(facts, conf)


def protocols(conf: Doveconf) -> list[str]:
    """Those that are on, as `imap`; 2.4 may write them as a block."""
    # 2.3's default, which doveconf -n leaves out; a build whose default is none, as Debian's, prints others.
    default = "imap pop3 lmtp" if conf.release == "2.3" else ""
    listed = conf.root.get("protocols", default=default).split()
    for blocks in conf.root.all("protocols"):
        listed += [name for name, on in blocks.settings.items() if on == "yes"]
    return [name for name in dict.fromkeys(listed) if name != "none"]


def in_use(conf: Doveconf) -> list[LoginService]:
    """The login services that clients can reach: Dovecot's own, and those with names of the site's."""
    on = protocols(conf)
    found = []
    for service in loginservices.login_services(conf.root):
        wanted = conf.root.get("service", service.name, "protocol")
        served = service.protocol in on if service.name in LOGIN_SERVICES else not wanted or wanted in on
        # others that have an argument are no login services, as `quota-status -p postfix`
        if service.protocol and served and loginservices.is_open(conf.root, service.name):
            found.append(service)
    return found


def below(path: str, folder: str) -> str:
    """`path` as seen from `folder`; empty where it is not below it."""
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
            else "login processes see nothing outside of login/, their chroot"
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
        # a socket in the command counts before login_socket_path (seen with 2.4.1)
        services = [service for service in services if service.at]
    for service in services:
        if service.socket(settings.base_dir) == paths.folder(settings.login):
            yield _finding(OK, "login_socket", f"{service.name} asks at {wanted}")
            continue
        # one of the site's that asks auth may do so on purpose
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
    """2.4: one setting for all protocols, which each may have for itself."""
    everybody = conf.root.get("login_socket_path")
    names = list(dict.fromkeys(service.protocol for service in in_use(conf) if not service.at))
    if not names:
        return
    found_at = {name: conf.root.in_protocol(name, "login_socket_path") for name in names}
    wrong = {name: path for name, path in found_at.items() if path != wanted}
    if not wrong:
        yield _finding(OK, "login_socket", f"login_socket_path = {wanted}")
    elif everybody != wanted and all(path == everybody for path in wrong.values()):
        found = f"login_socket_path = {everybody}".rstrip()
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
        # only Dovecot's own end after one client where nothing is said
        default = "1" if service.name in LOGIN_SERVICES else unlimited
        count = conf.root.get("service", service.name, setting, default=default)
        if count in UNLIMITED:
            yield _finding(OK, "login_processes", f"{service.name}: {setting} = {count}")
            continue
        why = "each login makes a process and a connection to the director"
        level = WARNING
        if conf.release == "2.4":
            why = "anvil says that sessions were ended which go on: moved users stay on two backends"
            if facts.director_as.is_root:
                why += "; a director that runs as root ends them one by one"
            else:
                level = FAULT
        yield _finding(
            level,
            "login_processes",
            f"{service.name}: {setting} = {count}",
            why,
            block("service", service.name, f"{setting} = {unlimited}"),
        )
