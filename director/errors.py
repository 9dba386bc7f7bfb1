"""All exception classes, in one tree. A class exists only if a caller handles it differently."""

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
    """The base class of all expected errors."""

    exit_code = 1


class ConfigError(DirectorError):
    """The configuration is wrong; the process ends with exit code 78 before it opens anything."""

    exit_code = EX_CONFIG

    def __init__(self, file: str, key: str, value: object, expected: str) -> None:
        self.file, self.key, self.value, self.expected = file, key, value, expected
        super().__init__(f"{file}: {key} = {value!r}: {expected}" if key else f"{file}: {expected}")


class ConfigErrors(ConfigError):
    """All problems of one configuration file, at least one. The text has a line for each."""

    def __init__(self, problems: Sequence[ConfigError]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.file, first.key, first.value, first.expected)
        self.args = ("\n".join(str(problem) for problem in self.problems),)


class ListenError(DirectorError):
    """A socket or FIFO of the director cannot be opened; the process ends before it answers a login."""

    exit_code = EX_CONFIG

    def __init__(self, listener: str, where: str, reason: str) -> None:
        self.listener, self.where, self.reason = listener, where, reason
        super().__init__(f"{listener}: cannot listen on {where}: {reason}")


class TooFewDescriptors(DirectorError):
    """The limit of open files is too low for the director; the process ends before it opens anything."""

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
        """Make the error.

        Args:
            part: `cert`, `key` or `ca`.
            problem: the reason, for the message.
        """
        self.part, self.problem = part, problem
        super().__init__(f"ring.tls.{part}: {problem}")


class StoreProblem(DirectorError):
    """A tool cannot use the state store, and ends.

    The exit code is 69 if the command may succeed later, or after the operator has done what the text says.
    It is 78 if the program or the URL of the store must change.
    """

    def __init__(self, text: str, exit_code: int = EX_UNAVAILABLE) -> None:
        self.exit_code = exit_code
        super().__init__(text)


class ExportError(DirectorError):
    """A file is not a complete export, and nothing of it is imported (exit code 65)."""

    exit_code = EX_DATA

    def __init__(self, file: str, line: int, problem: str) -> None:
        """Make the error.

        Args:
            file: path of the file, for the message.
            line: from 1; 0 for the file as a whole.
            problem: the reason, for the message.
        """
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}: {f'line {line}: ' if line else ''}{problem}; nothing was imported")


class DoveconfError(DirectorError):
    """A text is not a complete configuration of Dovecot (exit code 65)."""

    exit_code = EX_DATA

    def __init__(self, file: str, line: int, problem: str) -> None:
        """Make the error.

        Args:
            file: name of the text, for the message.
            line: from 1; 0 for the text as a whole.
            problem: the reason, for the message.
        """
        self.file, self.line, self.problem = file, line, problem
        super().__init__(f"{file}: {f'line {line}: ' if line else ''}{problem}")


class FileInTheWay(DirectorError):
    """A command cannot make a file; nothing was changed (exit code 77)."""

    exit_code = EX_REFUSED

    def __init__(self, file: str, reason: str) -> None:
        self.file, self.reason = file, reason
        super().__init__(f"{file}: cannot be written: {reason}")


class PeerError(DirectorError):
    """A client or server sent something invalid. Its connection is closed; all others continue."""


class KickError(PeerError):
    """The kick channel refused a request, or gave no answer. The sessions may still run: ask again."""

    def __init__(self, socket: str, reason: str) -> None:
        self.socket, self.reason = socket, reason
        super().__init__(f"{socket}: {reason}")


class OperationError(DirectorError):
    """A command of an operator is not carried out. The text is for the operator."""


class UnknownName(OperationError):
    """There is no such host, user or director (exit code 68)."""

    exit_code = EX_NOT_FOUND


class BadRequest(OperationError):
    """A parameter is wrong (exit code 65)."""

    exit_code = EX_DATA


class TryAgain(OperationError):
    """The command is not possible now: the ring is not in sync, or another change runs (exit code 75)."""

    exit_code = EX_TRY_AGAIN


class Refused(OperationError):
    """The command is not allowed in the present state (exit code 77)."""

    exit_code = EX_REFUSED
