"""Reads a TOML file into Structs whose fields carry kinds (units.py), and writes it again."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from director.errors import ConfigError, ConfigErrors
from director.service.configuration.secretfiles import problem_with, secret_lines
from director.service.configuration.servers import Endpoint, read_endpoint
from director.service.configuration.units import Kind, SecretFile, StateUrl, nearest
from director.service.secret import Secret
from state.resolver import Resolve

SECRET_FILE_LIMIT = 64 * 1024
"""Bytes. A longer file is not a secret; the path must be wrong."""

SOCKET_PATH_LIMIT = 107
"""Bytes that a unix socket's path may have; the kernel's limit."""

LET_READ = "; run this as its owner or root, or let that user read it"
LET_DIRECTOR_READ = "; chown or chmod it for the user of the director"
"""Advice for a file that cannot be read: the configuration; a secret."""

_VARIABLE = re.compile(r"\$\{([^}]*)\}?")
_SECRET_KEY = re.compile("pass|secret|token", re.IGNORECASE)


class UnresolvedName(NamedTuple):
    """A name in the file that has no address now."""

    key: str
    name: str
    """The entry as written in the file."""
    reason: str

    def __str__(self) -> str:
        return f'{self.key} = "{self.name}": {self.reason}'


class Reader:
    """Reads the parsed file and collects all its problems, instead of stopping at the first."""

    def __init__(self, file: str, folder: Path, environ: Mapping[str, str]) -> None:
        self.file, self.folder = file, folder
        self.problems: list[ConfigError] = []
        self.warnings: list[str] = []
        self.unresolved: list[UnresolvedName] = []
        self.secret_files: list[tuple[str, str]] = []
        """Key and path of each file with a secret."""
        self._environ = environ
        self._written: dict[str, object] = {}

    def document(self) -> dict[str, Any]:
        """Return the whole file. Raises ConfigErrors if it cannot be read or is not TOML."""
        try:
            return tomllib.loads(Path(self.file).read_bytes().decode("utf-8-sig"))
        except PermissionError as exc:
            self._give_up(f"{_denied(exc)}{LET_READ}")
        except OSError as exc:
            self._give_up(f"cannot be read ({exc.strerror}); name a file with -c FILE or DIRECTOR_CONFIG")
        except UnicodeDecodeError as exc:
            self._give_up(f"must be UTF-8 text, but byte {exc.start + 1} is none")
        except tomllib.TOMLDecodeError as exc:
            self._give_up(f"is not TOML: {exc}")

    def _give_up(self, reason: str) -> NoReturn:
        raise ConfigErrors([ConfigError(self.file, "", None, reason)])

    def problem(self, key: str, expected: str, value: object = None) -> None:
        """Record a problem. Without `value`, the value in the file is shown."""
        shown = self._written.get(key, "") if value is None else value
        if isinstance(shown, dict):
            shown = "{…}"
        elif _SECRET_KEY.search(key) and not key.endswith("_file"):
            shown = "***"
        elif key in ("state", "snapshot") and isinstance(shown, str):
            shown = StateUrl(shown)
        self.problems.append(ConfigError(self.file, key, shown, expected))

    def reported(self, key: str) -> bool:
        """Return whether a problem with `key`, or with a key below it, was recorded."""
        return any(p.key == key or p.key.startswith((f"{key}.", f"{key}[")) for p in self.problems)

    def section(self, cls: type[msgspec.Struct], raw: object, prefix: str) -> dict[str, Any]:
        """Return the values that table `raw` gives for the fields of `cls`. Sub-tables are returned unread.

        Bad values are recorded as problems and left out.
        """
        if not isinstance(raw, dict):
            if raw is not None:
                self.problem(prefix, f"expected a section, write [{prefix}] on a line of its own", value=raw)
            return {}
        fields = {_key(f): f for f in msgspec.structs.fields(cls) if _in_file(f)}
        given: dict[str, Any] = {}
        for name, value in raw.items():
            key = f"{prefix}.{name}".lstrip(".")
            self._written[key] = value
            if name not in fields:
                known = nearest(name, fields) or "; known: " + ", ".join(fields)
                self.problem(key, f"unknown key{known}")
            elif (kind := _kind(fields[name])) is None:
                given[name] = value
            else:
                self._read(key, kind, value, fields[name].name, given)
        return given

    def _read(self, key: str, kind: Kind, value: object, name: str, given: dict[str, Any]) -> None:
        try:
            read = kind.read(self._expanded(value))
            given[name] = self._secret(read, kind, key) if isinstance(kind, SecretFile) else read
        except ValueError as exc:
            self.problem(key, str(exc))

    def _expanded(self, value: object) -> object:
        if isinstance(value, list):
            return [self._expanded(item) for item in value]
        return _VARIABLE.sub(self._variable, value) if isinstance(value, str) else value

    def _variable(self, match: re.Match[str]) -> str:
        if not re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", match[0]):
            raise ValueError("an environment variable is written ${NAME}")
        if match[1] not in self._environ:
            raise ValueError(f"{match[1]} is not set in the environment; set it, or write the value itself")
        return self._environ[match[1]]

    def _secret(self, path: str, kind: SecretFile, key: str) -> Secret:
        """Return the content of a secret file; without a path, the empty secret. Raises ValueError."""
        if not path:
            return Secret()
        file = self.folder / path
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{file} is not a file")
            if status.st_size > SECRET_FILE_LIMIT:
                raise ValueError(f"{file} is too long for a secret ({status.st_size} bytes)")
            content = file.read_bytes()
        except PermissionError as exc:
            raise ValueError(f"{file} {_denied(exc)}{LET_DIRECTOR_READ}") from exc
        except OSError as exc:
            raise ValueError(f"{file} cannot be read ({exc.strerror})") from exc
        if problem := problem_with(content):
            raise ValueError(f"{file} {problem}")
        secrets = secret_lines(content)
        if not secrets:
            raise ValueError(f"{file} is empty")
        if len(secrets) > kind.lines == 1:
            raise ValueError(f"{file} has {len(secrets)} lines; write the secret alone, on one line")
        if len(secrets) > kind.lines:
            raise ValueError(
                f"{file} has {len(secrets)} lines: each line is a secret, and {kind.lines} are the most;"
                " the first is offered to the other directors, all are accepted"
            )
        if min(map(len, secrets)) < kind.at_least:
            each = f"each line of {file}" if len(secrets) > 1 else f"the secret in {file}"
            raise ValueError(f"{each} must have at least {kind.at_least} bytes")
        self.warn_if_public(key, file)
        secret = Secret(b"\n".join(secrets))
        secret.file = str(file)
        return secret

    def warn_if_public(self, key: str, file: Path) -> None:
        """Record the file as one that holds a secret, and warn if every user can read it."""
        self.secret_files.append((key, str(file)))
        if file.stat().st_mode & stat.S_IROTH:
            self.warnings.append(f"{self.file}: {key}: every user can read {file}; chmod o-r {file}")

    def endpoint(self, key: str, text: str, port: int, resolve: Resolve) -> Endpoint | None:
        """Return the address to listen on; None for an empty text or a bad address, which is recorded."""
        try:
            return read_endpoint(text, port, resolve) if text else None
        except ValueError as exc:
            self.problem(key, str(exc))
            return None

    def socket(self, key: str, path: str, base: str) -> str:
        """Return the absolute path of a socket; empty stays empty."""
        if not path:
            return path
        absolute = os.path.normpath(os.path.join(base, path))
        if len(os.fsencode(absolute)) > SOCKET_PATH_LIMIT:
            self.problem(
                key, f"{absolute} is longer than the {SOCKET_PATH_LIMIT} bytes a socket's path can have"
            )
        return absolute


def _denied(exc: PermissionError) -> str:
    return f"cannot be read by uid {os.geteuid()} ({exc.strerror})"


def written(struct: msgspec.Struct, prefix: str = "") -> Iterator[str]:
    """Yield lines of TOML for the fields that have a kind, section by section.

    A secret is written as the path of its file, a password in a URL as `***`.
    """
    sections = []
    lines = []
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        kind = _kind(field)
        if isinstance(value, msgspec.Struct):
            sections.append((f"{prefix}.{field.name}".lstrip("."), value))
        elif kind is not None:
            lines.append(f"{_key(field)} = {kind.write(_printable(value))}")
    if lines:
        yield from ["", f"[{prefix}]"] if prefix else []
        yield from lines
    for name, section in sections:
        yield from written(section, name)


def _in_file(field: msgspec.structs.FieldInfo) -> bool:
    """Return whether the field is in the file: it has a kind or is a section."""
    return _kind(field) is not None or isinstance(field.default, msgspec.Struct)


def _printable(value: Any) -> Any:
    return value.shown if isinstance(value, StateUrl) else value


def _kind(field: msgspec.structs.FieldInfo) -> Kind | None:
    kinds: tuple[Kind, ...] = getattr(field.type, "__metadata__", ())
    return kinds[0] if kinds else None


def _key(field: msgspec.structs.FieldInfo) -> str:
    """Return the field's key in the file."""
    return f"{field.name}_file" if isinstance(_kind(field), SecretFile) else field.name
