"""Proxies with everything that a site may configure: TLS, SASL, master users, the PROXY protocol, and a
passdb for each kind of answer. There are two proxies with directors and a plain one, all with the same
backends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import NamedTuple

import trustme

from director.demo.cluster import Cluster
from director.demo.dovecot import Backend, Programs, Proxy
from director.demo.ports import USUAL, Ports, addresses, free_ports
from director.demo.process import ServeProcess
from director.demo.settings import ALL_PROTOCOLS, Rule
from tests.e2e import mail
from tests.e2e.processes import until

PROXIES, PLAIN, BACKENDS = "127.0.30.11", "127.0.30.21", "127.0.31.1"
TRUSTED, STRANGER = "127.0.0.1 127.0.30.0/24", "127.0.32.1"
"""The addresses whose PROXY header the proxies believe, and an address that is not among them."""
PASSWORD = "secret"
MASTER, MASTER_PASSWORD = "chief", "ofall"
"""The user who may log in as any user. The proxies pass this on, so the backends know the user too."""
PROXY_MASTER, PROXY_MASTER_PASSWORD = "keeper", "forproxies"
"""The user with which the proxies log in at the backends if the passdb says so."""
MECHANISMS = "plain login cram-md5 scram-sha-256"
SERVICES = {
    "imap": "imap-login",
    "pop3": "pop3-login",
    "submission": "submission-login",
    "sieve": "managesieve-login",
}
KINDS: dict[str, type[mail.Session]] = {
    "imap": mail.Imap,
    "pop3": mail.Pop3,
    "submission": mail.Submission,
    "sieve": mail.Sieve,
}


class Extra(NamedTuple):
    """A further listener of a login service, on the same port everywhere."""

    name: str
    port: int
    tls: bool = False
    haproxy: bool = False


def listeners(ports: Ports, protocol: str) -> list[Extra]:
    """Return the further listeners of a protocol. Ports below 1024 are the usual ones."""
    shift = 0 if ports == USUAL else 10_000
    tls = {"imap": ("imaps", 993), "pop3": ("pop3s", 995), "submission": ("submissions", 465)}
    haproxy = {"imap": 2143, "pop3": 2110, "submission": 2587, "sieve": 2190}
    found = [Extra(f"{protocol}_haproxy", haproxy[protocol] + shift, haproxy=True)]
    if protocol in tls:
        name, port = tls[protocol]
        found.append(Extra(name, port + shift, tls=True))
    return found


class Entrance(NamedTuple):
    """A proxy that clients log in to: the plain one, or one with a director."""

    site: Site
    proxy: Proxy
    director: ServeProcess | None

    @property
    def address(self) -> str:
        return self.proxy.address

    def user(self, name: str) -> str:
        """Return a user who has never been at another entrance: all entrances have the same backends."""
        return f"{name}-{self.proxy.name}"

    def backend_of(self, user: str) -> str:
        """Return the name of the user's backend, from the director or the plain proxy's passdb."""
        if self.director is None:
            return self.site.backends[1].name
        current = self.director.ask("status", user)["current"]
        return self.site.cluster.backend(current).name

    def port(self, protocol: str, kind: str = "") -> int:
        """Return the port of a protocol. `kind`: `tls` or `haproxy`; empty: plain."""
        if not kind:
            return self.site.ports.of(protocol)
        extra = listeners(self.site.ports, protocol)
        return next(extra_.port for extra_ in extra if getattr(extra_, kind))

    def connect(self, protocol: str) -> mail.Session:
        return KINDS[protocol](self.address, self.port(protocol))

    def connect_tls(self, protocol: str) -> mail.Session:
        return KINDS[protocol](self.address, self.port(protocol, "tls"), tls=self.site.tls)

    def connect_behind(self, protocol: str, client: str) -> mail.Session:
        """Connect by the PROXY protocol, as a load balancer does for `client`."""
        first = f"PROXY TCP4 {client} {self.address} 4242 {self.site.ports.of(protocol)}"
        return KINDS[protocol](self.address, self.port(protocol, "haproxy"), first=first)


class Site(NamedTuple):
    cluster: Cluster
    plain: Proxy
    tls: SSLContext
    """The CA that clients trust."""

    @property
    def ports(self) -> Ports:
        return self.cluster.ports

    @property
    def backends(self) -> list[Backend]:
        """The backends b1 to b3, and b4, which has the tag gold."""
        return self.cluster.backends

    @property
    def directors(self) -> list[ServeProcess]:
        return self.cluster.directors

    @property
    def entrances(self) -> list[Entrance]:
        """The proxies with a director."""
        pairs = zip(self.cluster.proxies, self.directors, strict=True)
        return [Entrance(self, proxy, director) for proxy, director in pairs]

    @property
    def plain_entrance(self) -> Entrance:
        return Entrance(self, self.plain, None)

    def landed(self, protocol: str, user: str, visit: Callable[[], object]) -> str:
        """Return the name of the backend that serves the login, or gets the mail, of `user` in `visit`."""
        spoken = "managesieve" if protocol == "sieve" else protocol

        def count(backend: Backend) -> int:
            return backend.users(spoken).count(user)

        before = {backend.name: count(backend) for backend in self.backends}
        visit()

        def found() -> list[str]:
            return [backend.name for backend in self.backends if count(backend) > before[backend.name]]

        (name,) = until(found, what=f"a backend has logged {protocol} of {user}")
        return str(name)

    def logged(self, backend: str, user: str) -> str:
        """Return the line of a backend's log with the login of `user`."""
        lines = self.cluster.backend(backend).log().splitlines()
        return next(line for line in lines if f"user=<{user}>" in line)


@contextmanager
def running(folder: Path, programs: Programs) -> Iterator[Site]:
    """Run the whole site on the addresses above, in `folder`, which Dovecot must be able to see."""
    proxies, hosts = addresses(PROXIES, 2), addresses(BACKENDS, 4)
    ports = free_ports([*proxies, PLAIN, *hosts], proxies)
    authority = trustme.CA()
    cert, key = folder / "site.crt", folder / "site.key"
    issued = authority.issue_cert(*proxies, PLAIN, *hosts)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    believing = create_default_context()
    authority.configure_trust(believing)
    with ExitStack() as stack:
        relay = stack.enter_context(mail.relay("127.0.32.9"))
        cluster = Cluster(
            folder / "c",
            directors=2,
            ports=ports,
            first_proxy=PROXIES,
            first_backend=BACKENDS,
            passdb=rules(programs, ports),
            settings={"users": 'master_user_separator = "*"\nkick_delay = "500 ms"'},
            programs=programs,
            protocols=ALL_PROTOCOLS,
        )
        plain = Proxy(
            folder / "p0",
            "p0",
            PLAIN,
            ports,
            passdb=rules(programs, ports, default=hosts[1], fixed=hosts[2], gold=hosts[3]),
            director=False,
            programs=programs,
            protocols=ALL_PROTOCOLS,
        )
        tls = tls_settings(programs, cert, key)
        for proxy in (plain, *cluster.proxies):
            proxy.extra = tls + front_settings(programs, ports, folder / "nobody")
        for backend in cluster.backends:
            backend.extra = tls + back_settings(programs, ports)
            backend.relay = relay
        for director in cluster.directors:
            configure(director, hosts)
        stack.enter_context(cluster)
        yield Site(cluster, stack.enter_context(plain), believing)


def configure(director: ServeProcess, hosts: list[str]) -> None:
    """Give the last host the tag gold."""
    text = director.config.read_text()
    text = text.replace(f'"{hosts[0]}-{hosts[-1]}"', f'"{hosts[0]}-{hosts[-2]}", "{hosts[-1]}@gold"')
    director.config.write_text(text)


def rules(programs: Programs, ports: Ports, default: str = "", fixed: str = "", gold: str = "") -> list[Rule]:
    """Return which users the proxies let in, by the beginning of their names. Hosts are for the plain proxy.

    strict: with PASSWORD only, any mechanism; the backend gets another password. nopass: the same, but the
    backend gets none. fixed: the passdb names the host. local: not proxied. gold: has the tag. alias: is
    USER-box at the backend. kept: logs in there through the proxies' master user. ssl, starttls: TLS to the
    backend. ghost: unknown. broken: no passdb is asked, which auth takes for its own fault. Other users: any
    password.
    """
    old = programs.release == "2.3"
    user = "%u" if old else "%{user}"
    imaps = next(listener.port for listener in listeners(ports, "imap") if listener.tls)
    named = [
        Rule("strict*", password=PASSWORD, host=default, fields={"pass": "frombackend"}),
        Rule("nopass*", password=PASSWORD, host=default),
        Rule("fixed*", host=fixed or addresses(BACKENDS, 3)[2]),
        Rule("local*", proxy=False),
        Rule("gold*", host=gold, fields={"director_tag": "gold"}),
        Rule("alias*", host=default, fields={"destuser": f"{user}-box"}),
        Rule(
            "kept*",
            host=default,
            fields={"destuser": f"{user}*{PROXY_MASTER}", "pass": PROXY_MASTER_PASSWORD},
        ),
        Rule("ssl*", host=default, fields={"ssl": "any-cert", "port": str(imaps)}),
        Rule("starttls*", host=default, fields={"starttls": "any-cert"}),
    ]
    others = " ".join(f"!{rule.users}" for rule in named)
    return [*named, Rule(f"{others} !broken* !ghost*", host=default)]


def tls_settings(programs: Programs, cert: Path, key: Path) -> str:
    cert, key = programs.inside(cert), programs.inside(key)
    if programs.release == "2.3":
        return f"ssl = yes\nssl_cert = <{cert}\nssl_key = <{key}\nssl_min_protocol = TLSv1.2\n"
    return f"ssl = yes\nssl_server_cert_file = {cert}\nssl_server_key_file = {key}\n"


def front_settings(programs: Programs, ports: Ports, no_users: Path) -> str:
    text = f"auth_mechanisms = {MECHANISMS}\nauth_master_user_separator = *\n"
    text += f"haproxy_trusted_networks = {TRUSTED}\nlogin_trusted_networks = {TRUSTED}\n"
    for protocol, service in SERVICES.items():
        text += f"service {service} {{\n"
        for extra in listeners(ports, protocol):
            options = ["ssl = yes"] * extra.tls + ["haproxy = yes"] * extra.haproxy
            text += _listener(extra, options)
        text += "}\n"
    return text + _master(programs, MASTER, MASTER_PASSWORD) + _no_users(programs, no_users)


def back_settings(programs: Programs, ports: Ports) -> str:
    # If the passdb does not name a port, the proxy uses the port that the client came to, so the backends
    # have the same listeners. Only imaps is named.
    text = "auth_master_user_separator = *\n"
    for protocol, service in SERVICES.items():
        text += f"service {service} {{\n"
        for extra in listeners(ports, protocol):
            text += _listener(extra, ["ssl = yes"] * (extra.name == "imaps"))
        text += "}\n"
    masters = {MASTER: MASTER_PASSWORD, PROXY_MASTER: PROXY_MASTER_PASSWORD}
    return text + "".join(_master(programs, name, password) for name, password in masters.items())


def _listener(extra: Extra, options: list[str]) -> str:
    lines = [f"port = {extra.port}", *options]
    return f"  inet_listener {extra.name} {{\n" + "".join(f"    {line}\n" for line in lines) + "  }\n"


def _master(programs: Programs, name: str, password: str) -> str:
    if programs.release == "2.3":
        return (
            "passdb {\n  driver = static\n"
            f"  args = password={password}\n  username_filter = {name}\n  master = yes\n"
            "  result_success = continue\n}\n"
        )
    return (
        f"passdb static_{name} {{\n  driver = static\n  static_password = {password}\n"
        f"  username_filter = {name}\n  master = yes\n  result_success = continue\n}}\n"
    )


def _no_users(programs: Programs, path: Path) -> str:
    """Return a passdb without users, for the users ghost…."""
    path.touch(0o644)
    if programs.release == "2.3":
        driver = f"passdb {{\n  driver = passwd-file\n  args = {programs.inside(path)}\n"
    else:
        driver = f"passdb passwd-file {{\n  passwd_file_path = {programs.inside(path)}\n"
    return driver + "  username_filter = ghost*\n}\n"


def is_refused(address: str, port: int, source: str, line: str) -> bool:
    """Whether a connection from `source` that begins with `line` is closed without an answer."""
    with socket.create_connection((address, port), timeout=20, source_address=(source, 0)) as link:
        link.sendall(line.encode() + b"\r\n")
        try:
            return link.recv(1) == b""
        except ConnectionResetError:
            return True
