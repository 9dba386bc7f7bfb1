"""Checks of Dovecot's configuration, a function each. docs/dovecot.md describes the right configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator

from director.doctor import logins
from director.doctor.facts import Facts
from director.doctor.findings import FAULT, HINT, OK, UNSEEN, WARNING, Finding, block
from director.doctor.logins import LOGIN_PROTOCOLS, below, protocols
from director.dovecot import paths
from director.dovecot.doveconf import Block, Doveconf

USERDB = "director-userdb"
"""The usual name of the director's socket for look-ups."""
CUTS_DOMAIN = re.compile(r"\|\s*username\b|%[LU]*n")
"""An auth_username_format, of 2.4 or 2.3, that removes the domain."""


NO_PASSWORD = re.compile(r"\bnopassword\b(?!\s*=\s*(?:no|n|0)\b)")
"""The field nopassword in the arguments, the fields or the query of a passdb."""


def check(facts: Facts) -> Iterator[Finding]:
    """Return all findings about the configuration of Dovecot; if it cannot be read, only that finding."""
    conf = facts.conf
    if conf is None:
        why = "Dovecot's configuration was not checked"
        fix = ("doveconf -n > FILE   # on the proxy", "director doctor --doveconf FILE")
        yield _finding(UNSEEN, "configuration", facts.conf_problem, why, fix)
        return
    if conf.release not in ("2.3", "2.4"):
        found = f"Dovecot {conf.version}" if conf.version else "no version of Dovecot in the text"
        yield _finding(FAULT, "version", found, "the director works with Dovecot 2.3 and 2.4 only")
        return
    yield _finding(OK, "version", f"Dovecot {conf.version}")
    yield from _protocols(conf)
    yield from _base_dir(facts, conf)
    yield from _built_in(conf)
    yield from logins.check(facts, conf)
    yield from _notify(facts, conf)
    yield from _lookups(facts, conf)
    yield from _lmtp_names(conf)
    yield from _doveadm(conf)
    yield from _passdbs(conf)
    yield from _names(facts, conf)
    yield from _admin(facts, conf)
    yield from _haproxy(conf)


def _finding(level: str, check: str, found: str, why: str = "", fix: tuple[str, ...] = ()) -> Finding:
    return Finding(area="dovecot", level=level, check=check, found=found, why=why, fix=fix)


def _protocols(conf: Doveconf) -> Iterator[Finding]:
    names = [name for name in protocols(conf) if name in LOGIN_PROTOCOLS or name == "lmtp"]
    if names:
        yield _finding(OK, "protocols", f"protocols: {' '.join(names)}")
        return
    why = "no user can log in here, and no mail is accepted"
    yield _finding(FAULT, "protocols", "no protocol is on", why, ("protocols = imap lmtp",))


def _base_dir(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    theirs, ours = conf.root.get("base_dir", default="/run/dovecot"), facts.settings.base_dir
    if paths.folder(theirs) == paths.folder(ours):
        yield _finding(OK, "base_dir", f"base_dir = {theirs}")
        return
    why = "the director's sockets are not where Dovecot looks for them"
    yield _finding(
        FAULT,
        "base_dir",
        f"Dovecot's is {theirs}, the director's {ours}",
        why,
        ("[dovecot]                # director.toml", f'base_dir = "{theirs}"'),
    )


def _built_in(conf: Doveconf) -> Iterator[Finding]:
    if conf.release != "2.3":
        return
    names = ("director_servers", "director_mail_servers")
    set_ones = [name for name in names if conf.root.get(name)]
    if not set_ones:
        yield _finding(OK, "built_in_director", "Dovecot's own director is off")
        return
    why = "Dovecot's own director must be off: while it is on, logins may not reach this director"
    yield _finding(
        FAULT,
        "built_in_director",
        f"{' and '.join(set_ones)} set",
        why,
        tuple(f"{name} =" for name in set_ones),
    )


def _notify(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    settings = facts.settings
    if not logins.in_use(conf):
        return
    why = "assignments expire after users.expire even while the user has a session"
    if not settings.notify:
        yield _finding(WARNING, "notify", "listen.notify.path is empty", why)
        return
    wanted = below(settings.notify, f"{settings.base_dir}/login")
    if not wanted:
        found = f"the director reads {settings.notify}"
        unseen = "login processes cannot reach files outside of login/, their chroot"
        fix = ("[listen.notify]          # director.toml", 'path = "login/director/proxy-notify"')
        yield _finding(FAULT, "notify", found, unseen, fix)
        return
    found = conf.root.get("login_proxy_notify_path", default="proxy-notify")
    if found == wanted:
        yield _finding(OK, "notify", f"login_proxy_notify_path = {found}")
        return
    yield _finding(
        FAULT,
        "notify",
        f"login_proxy_notify_path = {found}",
        why,
        (f"login_proxy_notify_path = {wanted}",),
    )


def _lookups(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    settings = facts.settings
    wanted = below(settings.userdb, settings.base_dir) or settings.userdb
    off = () if wanted else ("[listen.userdb]          # director.toml", f'path = "{USERDB}"')
    used = [name for name in ("lmtp", "doveadm") if name == "doveadm" or name in protocols(conf)]
    for name in used:
        found = conf.root.in_protocol(name, "auth_socket_path", default="auth-userdb")
        if wanted and paths.socket(found, settings.base_dir) == paths.folder(settings.userdb):
            yield _finding(OK, f"{name}_lookups", f"{name} asks at {found}")
            continue
        action = "mail is delivered" if name == "lmtp" else "doveadm commands run"
        yield _finding(
            FAULT if name == "lmtp" else WARNING,
            f"{name}_lookups",
            f"protocol {name}: auth_socket_path = {found}{', and listen.userdb is off' if off else ''}",
            f"{action} without asking the director",
            off + block("protocol", name, f"auth_socket_path = {wanted or USERDB}"),
        )
    if "lmtp" in used and conf.root.in_protocol("lmtp", "lmtp_proxy") != "yes":
        why = "lmtp delivers mail on this machine instead of passing it on"
        yield _finding(FAULT, "lmtp_proxy", "lmtp_proxy = no", why, ("lmtp_proxy = yes",))


def _lmtp_names(conf: Doveconf) -> Iterator[Finding]:
    """Whether lmtp uses the same user names as logins. Debian 13's 20-lmtp.conf removes the domain."""
    general = conf.root.get("auth_username_format")
    lmtp = conf.root.in_protocol("lmtp", "auth_username_format")
    if "lmtp" in protocols(conf) and CUTS_DOMAIN.search(lmtp) and not CUTS_DOMAIN.search(general):
        why = "mail uses the name without the domain, logins the full name: two users, on two backends"
        whole = general or ("%Lu" if conf.release == "2.3" else "%{user | lower}")
        fix = block("protocol", "lmtp", f"auth_username_format = {whole}")
        found = f"protocol lmtp: auth_username_format = {lmtp}"
        yield _finding(WARNING, "lmtp_names", found, why, fix)


def _doveadm(conf: Doveconf) -> Iterator[Finding]:
    """Whether doveadm can connect to a backend. doveconf hides a password, but shows that it is empty."""
    values = (("doveadm_port", "24245"), ("doveadm_password", "PASSWORD OF THE BACKENDS"))
    unset = [(name, value) for name, value in values if conf.root.get(name) in ("", "0")]
    if not unset:
        yield _finding(OK, "doveadm", f"doveadm_port = {conf.root.get('doveadm_port')}, and a password")
        return
    found = " and ".join(name for name, _ in unset)
    why = "doveadm commands for a user do not reach the user's backend"
    fix = tuple(f"{name} = {value}" for name, value in unset)
    yield _finding(WARNING, "doveadm", f"{found} not set", why, fix)


def _passdbs(conf: Doveconf) -> Iterator[Finding]:
    passdbs = list(conf.root.all("passdb"))
    if not passdbs:
        yield _finding(FAULT, "passdb", "there is no passdb", "no user can log in")
        return
    unseen, proxied = [], False
    for passdb in passdbs:
        fields = _fields(passdb)
        proxied = proxied or "proxy" in fields or "director_proxy_maybe" in fields
        name = passdb.name or _driver(passdb)
        if "host" in fields:
            why = "the director does not assign users that get a host from the passdb"
            found, chosen = f"passdb {name} returns host={fields['host']}", passdb.get("username_filter")
            if chosen:
                # The host is for users chosen by name, so it is intended.
                yield _finding(HINT, "passdb", f"{found} for {chosen}", why)
            else:
                yield _finding(WARNING, "passdb", found, why, ("# remove host",))
        if "user_dirkey" in fields:
            why = "the director sets this field itself, and finds the sessions to end by it"
            yield _finding(
                FAULT, "passdb", f"passdb {name} returns user_dirkey", why, ("# remove user_dirkey",)
            )
        if _driver(passdb) not in ("static",):
            unseen.append(name)
    if proxied:
        yield _finding(OK, "passdb", "the passdb returns proxy")
    elif unseen:
        found = f"the configuration does not show what passdb {', '.join(unseen)} returns"
        why = "it must return proxy=y and no host; check one user"
        yield _finding(UNSEEN, "passdb", found, why, ("director doctor --user USER",))
    else:
        fix = (
            ("args = nopassword=y proxy=y    # in passdb { }",)
            if conf.release == "2.3"
            else ("fields {                  # in passdb { }", "  proxy = y", "}")
        )
        yield _finding(FAULT, "passdb", "no passdb returns proxy", "no user is sent to a backend", fix)
    yield from _unauthenticated(passdbs)


def _unauthenticated(passdbs: list[Block]) -> Iterator[Finding]:
    """Passdbs that let the backend check the password: usual, but any client can cause assignments then."""
    for passdb in passdbs:
        if passdb.get("master") == "yes" or passdb.get("deny") == "yes":
            continue
        if passdb.get("skip") == "unauthenticated" or not _takes_any_password(passdb):
            continue
        name, why = (
            passdb.name or _driver(passdb),
            (
                "any client can cause assignments, up to users.max, and logins that wait:"
                " see docs/security.md, Unauthenticated users"
            ),
        )
        fix = (
            "# before it, a passdb that checks passwords, with result_success = continue; in this passdb:",
            "skip = unauthenticated",
        )
        found = f"passdb {name} returns nopassword: users are assigned before their passwords are checked"
        yield _finding(HINT, "unauthenticated", found, why, fix)


def _takes_any_password(passdb: Block) -> bool:
    """Whether the configuration shows that the passdb accepts any password."""
    fields = [f"{name}={value}" for block in passdb.all("fields") for name, value in block.settings.items()]
    return any(NO_PASSWORD.search(text) for text in (*passdb.settings.values(), *fields))


def _driver(passdb: Block) -> str:
    return passdb.settings.get("driver", "") or passdb.name or "without driver"


def _fields(passdb: Block) -> dict[str, str]:
    """The fields that the configuration of the passdb names. Only 2.3 has `default_fields`."""
    found: dict[str, str] = {}
    texts = [passdb.settings.get(name, "") for name in ("default_fields", "override_fields")]
    if _driver(passdb) == "static":
        texts.append(passdb.settings.get("args", ""))
    for text in texts:
        for word in text.split():
            name, _, value = word.partition("=")
            found[name] = value
    for fields in passdb.all("fields"):
        found |= fields.settings
    return found


def _names(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    # Dovecot's own director used its own separator until 2.3.19, later that of auth.
    directors = conf.root.get("master_user_separator")
    setting = "master_user_separator" if directors else "auth_master_user_separator"
    theirs, ours = directors or conf.root.get(setting), facts.settings.separator
    if theirs[:1] != ours[:1]:
        why = "logins of master users are assigned by another name than the user's"
        yield _finding(
            WARNING,
            "master_users",
            f'Dovecot\'s {setting} is "{theirs}", the director\'s "{ours}"',
            why,
            ("[users]                  # director.toml", f'master_user_separator = "{theirs[:1]}"'),
        )
    theirs = conf.root.get("director_username_hash", default="%Lu")
    if conf.release == "2.3" and theirs not in (facts.settings.username_hash, "%Lu"):
        why = "the hash uses another part of the user name than Dovecot's own director did"
        yield _finding(
            WARNING,
            "username_hash",
            f"director_username_hash was {theirs}, the director has {facts.settings.username_hash}",
            why,
            ("[users]                  # director.toml", f'username_hash = "{theirs}"'),
        )


def _admin(facts: Facts, conf: Doveconf) -> Iterator[Finding]:
    if conf.release != "2.3" or facts.settings.admin != f"{facts.settings.base_dir}/director-admin":
        return
    mode = "0600"
    for service in conf.root.all("service", "director"):
        for listener in service.all("unix_listener", "director-admin"):
            mode = listener.settings.get("mode", mode)
    if not mode.strip("0"):
        yield _finding(OK, "admin_socket", "Dovecot does not open director-admin itself")
        return
    fix = (
        "service director {",
        *(f"  {line}" for line in block("unix_listener", "director-admin", "mode = 0")),
        "}",
    )
    why = "Dovecot's master opens director-admin itself: doveadm director does not reach this director"
    yield _finding(WARNING, "admin_socket", f"service director: director-admin has mode {mode}", why, fix)


def _haproxy(conf: Doveconf) -> Iterator[Finding]:
    listeners = [
        f"{service.name}/{listener.name}"
        for service in conf.root.all("service")
        for listener in service.all("inet_listener")
        if listener.settings.get("haproxy") == "yes"
    ]
    if listeners and not conf.root.get("haproxy_trusted_networks"):
        why = "connections of the load balancer are refused"
        yield _finding(
            FAULT,
            "haproxy",
            f"haproxy = yes at {', '.join(listeners)}, and haproxy_trusted_networks is empty",
            why,
            ("haproxy_trusted_networks = ADDRESSES OF THE LOAD BALANCERS",),
        )
    fix = ("login_trusted_networks = ADDRESSES OF THE PROXIES   # on each backend",)
    why = "without it backends see the proxy as the client, in logs and limits"
    yield _finding(HINT, "trusted_networks", "the configuration of backends cannot be read here", why, fix)
