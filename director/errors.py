"""Every exception class of the daemon. One tree; a class exists where a caller acts differently on it."""

from __future__ import annotations

from collections.abc import Sequence

EX_USAGE = 64
EX_DATA = 65
EX_NOT_FOUND = 68
EX_UNAVAILABLE = 69
EX_TRY_AGAIN = 75
EX_REFUSED = 77
EX_CONFIG = 78


class DirectorError(Exception):
    """Root of everything the daemon raises on purpose."""

    exit_code = 1


class ConfigError(DirectorError):
    """The configuration is wrong; the process ends with exit code 78 before it opens anything."""

    exit_code = EX_CONFIG

    def __init__(self, file: str, key: str, value: object, expected: str) -> None:
        self.file, self.key, self.value, self.expected = file, key, value, expected
        super().__init__(f"{file}: {key} = {value!r}: {expected}" if key else f"{file}: {expected}")


class ConfigErrors(ConfigError):
    """All problems of one configuration file at once, at least one. The text has one a line."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.file, first.key, first.value, first.expected)
        self.args = ("\n".join(str(problem) for problem in self.problems),)


class ListenError(DirectorError):
    """A socket or FIFO of our own cannot be opened; the process ends before it answers anybody."""

    exit_code = EX_CONFIG

    def __init__(self, listener: str, where: str, reason: str) -> None:
        self.listener, self.where, self.reason = listener, where, reason
        super().__init__(f"{listener}: cannot listen on {where}: {reason}")


class TooFewDescriptors(DirectorError):
    """The process may not open as many files and sockets as it needs; it ends before it opens anything."""

    exit_code = EX_CONFIG

    def __init__(self, limit: int, needed: int) -> None:
        self.limit, self.needed = limit, needed
        super().__init__(
            f"open files are limited to {limit}, but the director needs {needed}, and two more for each"
            " connection of a login process; raise LimitNOFILE= of its unit, or ulimit -n"
        )


class TlsFileError(DirectorError):
    """A file of `ring.tls` cannot be used; the process ends before it opens anything."""

    exit_code = EX_CONFIG

    def __init__(self, part: str, problem: str) -> None:
        """part: `cert`, `key` or `ca`."""
        self.part, self.problem = part, problem
        super().__init__(f"ring.tls.{part}: {problem}")


class StoreProblem(DirectorError):
    """A tool did not get from the state store what it needs; it ends. The store may work again later, or
    after somebody did what the text says (exit code 69; 78 where the program or the URL has to change)."""

    def __init__(self, text: str, exit_code: int = EX_UNAVAILABLE) -> None:
        self.exit_code = exit_code
        super().__init__(text)


class ExportError(DirectorError):
    """A file is no whole export: nothing of it may be imported (exit code 65)."""

    exit_code = EX_DATA

    def __init__(self, file: str, line: int, problem: str) -> None:
        """line: from 1; 0 for the file as a whole."""
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}: {f'line {line}: ' if line else ''}{problem}; nothing was imported")


class DoveconfError(DirectorError):
    """A text is not Dovecot's configuration, or not the whole of it (exit code 65)."""

    exit_code = EX_DATA

    def __init__(self, file: str, line: int, problem: str) -> None:
        """line: from 1; 0 for the text as a whole."""
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}: {f'line {line}: ' if line else ''}{problem}")


class FileInTheWay(DirectorError):
    """A file that a command is to make cannot be made; nothing was changed (exit code 77)."""

    exit_code = EX_REFUSED

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = file, reason
        super().__init__(f"{file}: cannot be written: {reason}")


class PeerError(DirectorError):
    """Somebody on a socket sent what cannot be accepted; that connection is closed, all else goes on."""


class KickError(PeerError):
    """The kick channel did not carry out a request, or nobody knows. The sessions may live on; ask again."""

    def __init__(self, socket: str, reason: str) -> None:
        self.socket, self.reason = socket, reason
        super().__init__(f"{socket}: {reason}")


class OperationError(DirectorError):
    """An operator's command that is not carried out. The text is for the operator."""


class UnknownName(OperationError):
    """No such host, user or director (exit code 68)."""

    exit_code = EX_NOT_FOUND


class BadRequest(OperationError):
    """A parameter that cannot be right (exit code 65)."""

    exit_code = EX_DATA


class TryAgain(OperationError):
    """Right, but not now: the ring is not in sync, or it is being changed already (exit code 75)."""

    exit_code = EX_TRY_AGAIN


class Refused(OperationError):
    """Right, but not allowed as things stand (exit code 77)."""

    exit_code = EX_REFUSED
