"""Passwords of Redis servers and sentinels.

A password in a file is read again when a server refuses it, so that it can be changed while the program runs.
"""

from __future__ import annotations

from pathlib import Path

PASSWORD_LIMIT = 64 * 1024
"""Bytes. A longer file is taken for a wrong path."""


class PasswordFileError(ValueError):
    """The file holds no password. The message says why and contains nothing of the file."""


class Password:
    """A password and, if it came from a file, the path of that file. Its repr is `***`."""

    def __init__(self, value: str, file: Path | None = None, option: str = "") -> None:
        """Keep the value.

        Args:
            value: the password.
            file: the file with the password; None: the URL has it.
            option: the option of the store's URL that names the file.
        """
        self.value, self.option = value, option
        self.problem = ""
        """Why the file could not be read the last time; empty: it was read."""
        self._file = file
        self._known = {value}

    def __repr__(self) -> str:
        return "Password(***)"

    @property
    def secrets(self) -> frozenset[str]:
        """All values that this password has had. None of them may get into a message."""
        return frozenset(self._known)

    def read_again(self) -> bool:
        """Read the file again, and return whether it holds another password.

        A file that is missing or empty changes nothing: the password stays, and `problem` says why.
        """
        if self._file is None:
            return False
        before, self.problem = self.value, ""
        try:
            self.value = read_password(self._file)
        except PasswordFileError as exc:
            self.problem = (
                f"{self.option} = {str(self._file)!r}: {exc}; using the password that was read before"
            )
        self._known.add(self.value)
        return self.value != before


def value_of(password: Password | None) -> str | None:
    """Return the value as the library wants it; None: no password."""
    return password.value if password else None


def read_password(file: Path) -> str:
    """Return the password in a file, without the end of its line.

    Raises:
        PasswordFileError: the file is missing, empty or no password.
    """
    try:
        with file.open("rb") as content:
            data = content.read(PASSWORD_LIMIT + 1)
        if len(data) > PASSWORD_LIMIT:
            raise PasswordFileError(f"it is longer than {PASSWORD_LIMIT} bytes")
        password = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise PasswordFileError("it is not UTF-8 text; save it as UTF-8") from None
    except OSError as exc:
        raise PasswordFileError(exc.strerror or str(exc)) from None
    if not password:
        raise PasswordFileError("it is empty")
    if "\0" in password:
        raise PasswordFileError("it is UTF-16 text; save it as UTF-8")
    if "\n" in password:
        raise PasswordFileError("it has several lines; write the password alone, on one line")
    return password
