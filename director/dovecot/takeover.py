"""Makes a director.toml from the configuration of Dovecot 2.3's director, and lists what is left to do.

Values are carried over without the checks of `director config check`. Values that Dovecot itself refuses, or
that the text does not have, are omitted and listed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from director.dovecot import paths, tomltext, values
from director.dovecot.doveconf import Doveconf
from director.dovecot.hostlist import unique_entries
from director.dovecot.listeners import DOVEADM_PORT, PATHS, listeners
from director.dovecot.listensections import listen_section
from director.dovecot.notes import Notes
from director.dovecot.ringsection import SERVERS, Resolve, ring_section
from director.dovecot.snippet import snippet
from director.dovecot.variables import DEFAULTS, replace_variables
from director.errors import DoveconfError

NEEDED = "director_mail_servers"
HASHING = "director_consistent_hashing"
EXPIRE_AT_LEAST = 10
"""Seconds; less is refused by Dovecot, and here."""
PARALLEL_AT_MOST = 10_000
UNKNOWN = "this director has no such setting"
_REPLACED = {
    "director_output_buffer_size": "not needed: the output buffer of a link has a fixed limit",
    "director_ping_idle_timeout": "replaced by ring.ping_interval, 1 s by default",
    "director_ping_max_timeout": "replaced by ring.ping_timeout, 5 s by default",
    HASHING: "not needed: this director always places users by consistent hashing",
    DOVEADM_PORT: "replaced by listen.admin.tcp",
}
ACCOUNTS = ("default_internal_user", "default_internal_group", "default_login_user")
_DEFAULTS = {
    "director_output_buffer_size": "10M",
    "director_ping_idle_timeout": "30secs",
    "director_ping_max_timeout": "1mins",
    DOVEADM_PORT: "0",
}
"""Default values as `doveconf -a` prints them, without blanks."""
_TRANSLATED = {
    SERVERS,
    NEEDED,
    "director_user_expire",
    "director_user_kick_delay",
    "director_username_hash",
    "director_max_parallel_moves",
    "director_max_parallel_kicks",
    "director_flush_socket",
}
_OF_THE_PROCESS = {
    "client_limit": ("set LimitNOFILE= in director.service, two descriptors for each connection", ("0",)),
    "vsz_limit": ("set MemoryMax= in director.service", ("0", "18446744073709551615 B", "unlimited")),
    "user": ("set User= in director.service", ("dovecot",)),
    "group": ("set Group= in director.service", ()),
    "extra_groups": ("set SupplementaryGroups= in director.service", ()),
    "chroot": ("set ProtectSystem= in director.service", (".",)),
}
"""Settings of `service director`: the replacement of each, and its defaults."""


class TakenOver(msgspec.Struct, frozen=True, kw_only=True):
    """The result of importing the configuration of Dovecot 2.3's director."""

    toml: str
    """A complete director.toml."""
    dovecot: str
    """Settings to append to Dovecot's configuration: its own director is off, and this director is asked."""
    not_carried_over: tuple[str, ...]
    """Settings that are not carried over, with the reason or the setting that replaces each."""
    notes: tuple[str, ...]
    """Other things to do or to know before the change."""


def _unresolved(name: str) -> Sequence[str]:
    raise OSError(f"{name}: names are not resolved here")


def take_over(
    found: Doveconf,
    file: str,
    *,
    dovecot: str = "2.3",
    environ: Mapping[str, str] | None = None,
    resolve: Resolve = _unresolved,
) -> TakenOver:
    """Import a configuration.

    Args:
        file: name of the configuration in errors.
        dovecot: the release that the snippet is for, `2.3` or `2.4`.
        environ: values of `$ENV:NAME`.
        resolve: returns the addresses of a name; raises OSError if there are none.

    Raises:
        DoveconfError: it is not the configuration of a director of Dovecot 2.3 (or 2.2).
    """
    return _Import(found, file, dovecot, environ or {}, resolve).result()


class _Import:
    def __init__(
        self, found: Doveconf, file: str, dovecot: str, environ: Mapping[str, str], resolve: Resolve
    ) -> None:
        self.found, self.dovecot, self.resolve = found, dovecot, resolve
        self.root, used = replace_variables(found.root, environ)
        if not self.root.get(NEEDED):
            raise DoveconfError(
                file, 0, f"{NEEDED} is not set: no director of Dovecot 2.3 is configured here"
            )
        self.notes = Notes()
        self.notes.general += [
            f"${name}: the value comes from the environment of this command; Dovecot may have another value"
            for name in sorted(used)
        ]
        self.listeners = listeners(self.root, self.notes)
        self.base_dir = self.root.get("base_dir")

    def result(self) -> TakenOver:
        sections = [
            ("", ['state = "sqlite:////var/lib/director/state.db"']),
            ("ring", ring_section(self.root, self.listeners, self.resolve, self.notes)),
            ("backends", self._backends()),
            ("users", self._users()),
            ("dovecot", self._dovecot()),
            *(
                (f"listen.{kind}", listen_section(kind, self.listeners, self.base_dir, self.notes))
                for kind in PATHS
            ),
            ("log", ['level = "debug"'] if "-D" in self._arguments() else []),
        ]
        self._others()
        self._accounts()
        self._release()
        lines: list[str] = []
        for name, settings in sections:
            if settings:
                lines += ([f"[{name}]"] if name else []) + settings + [""]
        text, notes = snippet(self.root, self.listeners, self.dovecot)
        self.notes.general += notes
        return TakenOver(
            toml=self._head() + "\n".join(lines).rstrip() + "\n",
            dovecot=text,
            not_carried_over=tuple(dict.fromkeys(self.notes.not_carried_over)),
            notes=tuple(dict.fromkeys(self.notes.general)),
        )

    # ---- sections

    def _backends(self) -> list[str]:
        words = self.notes.words(NEEDED, self.root.get(NEEDED))
        servers = unique_entries(words, NEEDED, self.notes)
        return tomltext.array("mail_servers", servers) if servers else []

    def _users(self) -> list[str]:
        lines = []
        for ours, at_least in (("expire", EXPIRE_AT_LEAST), ("kick_delay", 0)):
            if value := self._duration(f"director_user_{ours}", at_least):
                lines.append(f"{ours} = {tomltext.text(value)}")
        if value := self._setting("director_username_hash"):
            lines.append(f"username_hash = {tomltext.text(value)}")
        elif self._is_older():
            self.notes.general.append(
                "director_username_hash is not set: the default is %u in 2.2 and %Lu here; write"
                " username_hash ="
                ' "%u" if names with capital letters reach the director'
            )
        if value := self._separator():
            lines.append(f"master_user_separator = {tomltext.text(value)}")
        for key in ("max_parallel_moves", "max_parallel_kicks"):
            if number := self._parallel(f"director_{key}"):
                lines.append(f"{key} = {number}")
        if value := self._setting("director_flush_socket"):
            lines.append(f"flush_socket = {tomltext.text(value)}")
            self.notes.general.append(
                f"director_flush_socket = {value}: the program needs no change; if it is a service of"
                " Dovecot, the director's user must be able to connect to its socket"
            )
        return lines

    def _setting(self, key: str) -> str:
        return self.notes.read(key, self.root.get(key), str, "")

    def _duration(self, key: str, at_least: int) -> str:
        text = self.root.get(key)
        # Until 2.2 a number without a unit means seconds.
        used = f"{text} s" if self._is_older() and text.isdigit() else text

        def kind(_: str) -> str:
            if values.seconds(used) < at_least:
                raise values.RefusedValue(f"it must be at least {at_least} s")
            return values.duration_text(used)

        return self.notes.read(key, text, kind, "") if text else ""

    def _parallel(self, key: str) -> int:
        """The number; 0: the default."""
        text = self.root.get(key)
        number = self.notes.read(key, text, values.number, 0) if text else 0
        if text.isdigit() and not number:
            self.notes.not_carried_over.append(
                f"{key} = {text}: with 0 Dovecot's director waits forever; the default is used"
            )
        if number > PARALLEL_AT_MOST:
            self.notes.not_carried_over.append(
                f"{key} = {number}: {PARALLEL_AT_MOST} is the highest value here, and is used"
            )
        return min(number, PARALLEL_AT_MOST)

    def _separator(self) -> str:
        """The separator between user and master user. Until 2.3.19 Dovecot's director had its own setting."""
        directors, common = (
            self._setting(key) for key in ("master_user_separator", "auth_master_user_separator")
        )
        if directors:
            if common[:1] not in ("", directors[:1]):
                self.notes.not_carried_over.append(
                    f"auth_master_user_separator = {common}: Dovecot's director uses master_user_separator ="
                    f" {directors} instead, which is carried over"
                )
        elif common and self._may_ignore_separator():
            self.notes.general.append(
                "before 2.3.20 Dovecot's director ignores auth_master_user_separator: for it,"
                f" USER{common[0]}MASTER is another user than USER; this director sends sessions of"
                f" USER{common[0]}MASTER to the host of USER"
            )
        return directors or common

    def _dovecot(self) -> list[str]:
        base = paths.folder(self.base_dir)
        if base == paths.BASE_DIR:
            return []
        self.notes.general.append(
            f"base_dir = {base}: if systemd opens the sockets, replace {paths.BASE_DIR} by this path in"
            " director-*.socket and tmpfiles.conf; the notes below have the lines (in a drop-in, write them"
            " after an empty ListenStream= or ListenFIFO=). If other instances of Dovecot run on this"
            " machine, each director needs its own units, state and listen.api.path"
        )
        return [f"base_dir = {tomltext.text(base)}"]

    # ---- the rest

    def _others(self) -> None:
        admin_ports = {str(listener.port) for listener in self.listeners if listener.kind == "admin"}
        for key, value in self.root.settings.items():
            if not key.startswith("director_") or key in _TRANSLATED or not value:
                continue
            if value.replace(" ", "") == _DEFAULTS.get(key) or (key == DOVEADM_PORT and value in admin_ports):
                continue
            if key != HASHING or not self._places_otherwise():
                self.notes.not_carried_over.append(f"{key} = {value}: {_REPLACED.get(key, UNKNOWN)}")
        internal = self.root.get("default_internal_user")
        for service in self.root.all("service", "director"):
            for key, value in service.settings.items():
                instead, defaults = _OF_THE_PROCESS.get(key, ("", ()))
                if instead and value and value not in (*defaults, internal):
                    self.notes.not_carried_over.append(f"service director {{ {key} = {value} }}: {instead}")
        others = [word for word in self._arguments() if word != "-D"]
        if others:
            self.notes.not_carried_over.append(
                f"service director {{ executable }}: the arguments {' '.join(others)}"
            )
        for passdb in self.root.all("passdb"):
            if any("proxy_maybe" in value for value in passdb.settings.values()):
                self.notes.general.append(
                    "a passdb returns proxy_maybe: if a server is proxy and backend host in one, the passdb"
                    " must also return lip= with the server's address"
                    " (docs/dovecot.md, Proxy and backend in one)"
                )

    def _accounts(self) -> None:
        """Add notes if the accounts differ from the defaults, which are in the units and tmpfiles.conf."""
        user, group, login = (self._account(key) for key in ACCOUNTS)
        if (user, group) != (DEFAULTS[ACCOUNTS[0]], DEFAULTS[ACCOUNTS[1]]):
            self.notes.general.append(
                f"Dovecot's own user is {user}, its group {group}: write User={user} and Group={group} into"
                f" director.service, then run director config check --user {user}:{group}"
            )
        if login != DEFAULTS[ACCOUNTS[2]]:
            self.notes.general.append(
                f"default_login_user = {login}: replace {DEFAULTS[ACCOUNTS[2]]} in tmpfiles.conf by the"
                " group of this user"
            )

    def _account(self, key: str) -> str:
        return self.notes.read(key, self.root.get(key), str, "") or DEFAULTS[key]

    def _release(self) -> None:
        if self._places_otherwise():
            self.notes.general.append(
                f"without {HASHING} Dovecot 2.2 places users by another algorithm: at first most users get"
                " another backend host than before"
            )
        if self._is_older():
            self.notes.general.append(
                f"this is Dovecot {self.found.release}: this director works with 2.3 and 2.4 only; upgrade"
                " Dovecot on this proxy at the same time"
            )

    def _is_older(self) -> bool:
        return self.found.release in ("2.0", "2.1", "2.2")

    def _places_otherwise(self) -> bool:
        """Whether it is a director of 2.2 that does not place users by consistent hashing."""
        hashing = self.root.get(HASHING)
        return hashing == "no" if not self.found.release else self._is_older() and hashing != "yes"

    def _arguments(self) -> list[str]:
        return self.root.get("service", "director", "executable").split()[1:]

    def _may_ignore_separator(self) -> bool:
        numbers = re.match(r"2\.3\.(\d+)", self.found.version)
        return numbers is None or int(numbers[1]) < 20

    def _head(self) -> str:
        lines = [
            "director.toml, made from the configuration of the director of Dovecot"
            f" {self.found.version or '2.3'}"
        ]
        for title, notes in (
            ("Not carried over:", self.notes.not_carried_over),
            ("Notes:", self.notes.general),
        ):
            if notes:
                lines += ["", title, *(f"- {note}" for note in dict.fromkeys(notes))]
        user = self.root.get(ACCOUNTS[0], default=DEFAULTS[ACCOUNTS[0]])
        lines += [
            "",
            f"`director config check -c FILE --user {user}` checks whether the director can use this file"
            " on this machine.",
        ]
        return "\n".join(map(tomltext.comment, lines)) + "\n\n"
