"""From the configuration of Dovecot 2.3 with its own director to a director.toml, and what is left to do.

Nothing is looked up, and nothing is checked that `director config check` checks: values are carried over.
"""

from __future__ import annotations

import re

import msgspec

from director.dovecot.doveconf import Doveconf
from director.dovecot.listeners import Listener, listeners
from director.dovecot.snippet import snippet
from director.errors import DoveconfError

RING_PORT = 9090
NEEDED = "director_mail_servers"
_UNITS = (("w", "w"), ("d", "d"), ("h", "h"), ("ms", "ms"), ("mil", "ms"), ("m", "min"), ("s", "s"))
"""How a unit of time begins in Dovecot's words; ours."""
_LEFT_OUT = {
    "director_output_buffer_size": "links between directors have a bound of their own",
    "director_ping_idle_timeout": "ring.ping_interval is 1 s",
    "director_ping_max_timeout": "ring.ping_timeout is 5 s",
    "director_consistent_hashing": "it is always so",
    "director_doveadm_port": "name the listener: listen.admin tcp",
}
_TRANSLATED = {
    "director_servers",
    "director_mail_servers",
    "director_user_expire",
    "director_user_kick_delay",
    "director_username_hash",
    "director_max_parallel_moves",
    "director_max_parallel_kicks",
    "director_flush_socket",
}
_OF_THE_PROCESS = {
    "client_limit": "LimitNOFILE= in director.service, two for each connection",
    "vsz_limit": "MemoryMax= in director.service",
    "user": "User= in director.service",
    "group": "Group= in director.service",
    "extra_groups": "SupplementaryGroups= in director.service",
    "chroot": "ProtectSystem= in director.service",
}
_PATHS = {
    "login": "login/director/login",
    "notify": "login/director/proxy-notify",
    "userdb": "director-userdb",
    "admin": "director-admin",
    "authreply": "director-authreply",
}
_MODES = {"login": 0o666, "notify": 0o666, "userdb": 0o600, "admin": 0o600, "authreply": 0o600}
"""Of our own defaults, which the socket units have."""
_NEVER_DIRECTLY_IN_LOGIN = {"login", "notify"}


class TakenOver(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a 2.3 director's configuration."""

    toml: str
    """A whole director.toml."""
    dovecot: str
    """To be read by Dovecot after everything else: its own director is off, ours is asked."""
    left_out: tuple[str, ...]
    """What was set and is not carried over, with the reason or what stands for it."""
    mind: tuple[str, ...]
    """What else to do or to know before the change."""


def take_over(found: Doveconf, file: str, *, dovecot: str = "2.3") -> TakenOver:
    """file: what the configuration is called in errors. dovecot: the release that the snippet is for.

    Raises DoveconfError where it is not that of a director of Dovecot 2.3.
    """
    return _Import(found, file, dovecot).result()


class _Import:
    def __init__(self, found: Doveconf, file: str, dovecot: str) -> None:
        self.found, self.root, self.dovecot = found, found.root, dovecot
        if not self.root.get(NEEDED):
            raise DoveconfError(
                file, 0, f"{NEEDED} is not set: no director of Dovecot 2.3 is configured here"
            )
        self.listeners = listeners(self.root)
        self.left_out: list[str] = []
        self.mind: list[str] = []

    def result(self) -> TakenOver:
        sections = [
            ("", ['state = "sqlite:////var/lib/director/state.db"']),
            ("ring", self._ring()),
            ("backends", self._backends()),
            ("users", self._users()),
            ("dovecot", self._dovecot()),
            *((f"listen.{kind}", self._listen(kind)) for kind in _PATHS),
            ("log", ['level = "debug"'] if "-D" in self._arguments() else []),
        ]
        self._others()
        lines: list[str] = []
        for name, settings in sections:
            if settings:
                lines += ([f"[{name}]"] if name else []) + settings + [""]
        text, missing = snippet(self.root, self.listeners, self.dovecot)
        self.mind += missing
        return TakenOver(
            toml=self._head() + "\n".join(lines).rstrip() + "\n",
            dovecot=text,
            left_out=tuple(self.left_out),
            mind=tuple(self.mind),
        )

    # ---- sections

    def _ring(self) -> list[str]:
        servers = self.root.get("director_servers").split()
        if not servers:
            return []
        ring = next((one for one in self.listeners if one.kind == "ring" and one.on), None)
        port = ring.port if ring else RING_PORT
        entries = [entry if port == RING_PORT else _with_port(entry, port) for entry in servers]
        lines = _array("servers", entries)
        if ring and ring.address and ring.address != "*" and len(ring.address.split()) == 1:
            lines.append(f"listen = {_text(_endpoint(ring.address, port))}")
        if len(servers) > 1:
            lines.append('secret_file = "ring.secret"')
            self.mind.append(
                "the directors need a secret that all of them know: openssl rand -hex 32 > ring.secret;"
                " chmod 600 ring.secret; copy it to all proxies"
            )
            self.mind.append(
                "all directors change at once: one of Dovecot's and one of these cannot be in one ring"
            )
        return lines

    def _backends(self) -> list[str]:
        servers = self.root.get(NEEDED).split()
        once = list(dict.fromkeys(servers))
        for entry in once:
            if servers.count(entry) > 1:
                self.left_out.append(f"{NEEDED}: {entry} stands there {servers.count(entry)} times")
        return _array("mail_servers", once)

    def _users(self) -> list[str]:
        lines = []
        for ours, theirs in (
            ("expire", "director_user_expire"),
            ("kick_delay", "director_user_kick_delay"),
        ):
            if value := self.root.get(theirs):
                lines.append(f"{ours} = {_text(_duration(value))}")
        if value := self.root.get("director_username_hash"):
            lines.append(f"username_hash = {_text(value)}")
        if value := self.root.get("auth_master_user_separator"):
            lines.append(f"master_user_separator = {_text(value)}")
            if self._may_ignore_separator():
                self.mind.append(
                    "Dovecot before 2.3.20 ignores auth_master_user_separator in its director: it takes"
                    f" user{value[0]}master for another user; now his sessions come to the host of user"
                )
        for key in ("max_parallel_moves", "max_parallel_kicks"):
            if value := self.root.get(f"director_{key}"):
                lines.append(f"{key} = {value}")
        if value := self.root.get("director_flush_socket"):
            lines.append(f"flush_socket = {_text(value)}")
            self.mind.append(
                f"director_flush_socket = {value}: the program stays as it is; where it is a service of"
                " Dovecot, its socket must let the director's user in"
            )
        return lines

    def _dovecot(self) -> list[str]:
        base = self.root.get("base_dir").rstrip("/")
        return [] if base in ("", "/run/dovecot", "/var/run/dovecot") else [f"base_dir = {_text(base)}"]

    def _listen(self, kind: str) -> list[str]:
        mine = [one for one in self.listeners if one.kind == kind and one.on]
        files = [one for one in mine if one.sort != "inet_listener"]
        addresses = [one for one in mine if one.sort == "inet_listener"]
        lines = []
        if files:
            # The usual one, where there are several.
            first = next((one for one in files if one.name == _PATHS[kind]), files[0])
            lines = self._file(first)
            self.left_out += [
                f"{_where(one)}: there is one socket of this sort, {first.name}; its clients must use that"
                for one in files
                if one is not first
            ]
        elif kind == "notify":
            self.mind.append(
                "login/proxy-notify was off: with it, from now on, a session that lasts longer than"
                " director_user_expire keeps its user assigned"
            )
        else:
            lines = ['path = ""']
        if kind == "admin":
            lines += self._admin_tcp(addresses)
        else:
            self.left_out += [f"{_where(one)}: {kind} is served on a file only" for one in addresses]
        return lines

    def _file(self, listener: Listener) -> list[str]:
        lines = []
        path = _PATHS[listener.kind]
        if listener.kind not in _NEVER_DIRECTLY_IN_LOGIN and listener.name != path:
            path = listener.name
            lines.append(f"path = {_text(path)}")
        lines.append(f'mode = "{listener.mode:04o}"')
        owner = [(key, value) for key, value in (("user", listener.user), ("group", listener.group)) if value]
        lines += [f"{key} = {_text(value)}" for key, value in owner]
        if owner or listener.mode != _MODES[listener.kind]:
            unit = [
                f"SocketMode={listener.mode:04o}",
                *(f"Socket{key.title()}={value}" for key, value in owner),
            ]
            self.mind.append(
                f"where systemd opens the sockets: director-{listener.kind}.socket {' '.join(unit)}"
            )
        self.left_out += [f"{_where(listener)} {{ {extra} }}" for extra in listener.extra]
        return lines

    def _admin_tcp(self, addresses: list[Listener]) -> list[str]:
        if not addresses:
            return []
        first = addresses[0]
        self.left_out += [
            f"{_where(one)}: there is one address, that of {_where(first)}" for one in addresses[1:]
        ]
        self.left_out += [f"{_where(first)} {{ {extra} }}" for extra in first.extra]
        words = first.address.replace("*", "").split()
        if len(words) > 1:
            self.left_out.append(f"{_where(first)}: of its addresses only {words[0]} is listened on")
        address = words[0] if words else "0.0.0.0"
        if address in ("0.0.0.0", "::"):
            self.mind.append(
                f"listen.admin tcp = {_endpoint(address, first.port)} is open to every network, as it was;"
                " whoever connects may change everything: better write one address"
            )
        return [f"tcp = {_text(_endpoint(address, first.port))}"]

    # ---- the rest

    def _others(self) -> None:
        for key, value in self.root.settings.items():
            if key.startswith("director_") and key not in _TRANSLATED and value:
                self.left_out.append(f"{key} = {value}: {_LEFT_OUT.get(key, 'unknown here')}")
        for service in self.root.all("service", "director"):
            for key, value in service.settings.items():
                if key in _OF_THE_PROCESS and value not in ("", "."):
                    self.left_out.append(f"service director {{ {key} = {value} }}: {_OF_THE_PROCESS[key]}")
        others = [word for word in self._arguments() if word != "-D"]
        if others:
            self.left_out.append(f"service director {{ executable }}: {' '.join(others)}")
        for one in self.listeners:
            if one.kind == "ring" and one.on:
                self.left_out += [f"{_where(one)} {{ {extra} }}" for extra in one.extra]

    def _arguments(self) -> list[str]:
        return self.root.get("service", "director", "executable").split()[1:]

    def _may_ignore_separator(self) -> bool:
        numbers = re.match(r"2\.3\.(\d+)", self.found.version)
        return numbers is None or int(numbers[1]) < 20

    def _head(self) -> str:
        lines = [
            f"director.toml, from the configuration of a director of Dovecot {self.found.version or '2.3'}"
        ]
        for title, notes in (("Not carried over:", self.left_out), ("Mind:", self.mind)):
            if notes:
                lines += ["", title, *(f"- {note}" for note in notes)]
        lines += ["", "director config check -c FILE says whether all of it can be used on this machine."]
        return "\n".join(f"# {line}".rstrip() for line in lines) + "\n\n"


def _where(listener: Listener) -> str:
    return f"service director, {listener.sort} {listener.name or listener.port}"


def _with_port(entry: str, port: int) -> str:
    """An entry of director_servers without a port gets that of the ring's listener."""
    if re.fullmatch(r"\[.*\]:\d+|[^:\[\]]+:\d+", entry):
        return entry
    return _endpoint(entry.strip("[]"), port)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _duration(text: str) -> str:
    match = re.fullmatch(r"\s*(\d+)\s*([A-Za-z]*)\s*", text)
    if match is None:
        return text
    word = match[2].lower() or "s"
    unit = next((ours for begin, ours in _UNITS if word.startswith(begin)), word)
    return f"{int(match[1]) * 7} d" if unit == "w" else f"{match[1]} {unit}"


def _array(key: str, entries: list[str]) -> list[str]:
    if sum(map(len, entries)) < 70:
        return [f"{key} = [{', '.join(map(_text, entries))}]"]
    return [f"{key} = [", *(f"    {_text(entry)}," for entry in entries), "]"]


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
