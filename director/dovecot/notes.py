"""Notes of the import of a configuration: settings that are not carried over, and what else to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from director.dovecot.values import RefusedValue
from director.dovecot.variables import unknown

Value = TypeVar("Value")


class Notes:
    """Both lists of notes, in the order in which they were made."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        """Settings that are not carried over, with the reason or the setting that replaces each."""
        self.mind: list[str] = []
        """Other things to do or to know before the change."""

    def read(self, what: str, text: str, kind: Callable[[str], Value], default: Value) -> Value:
        """The value of a setting; `default`, with a note, where it is refused or not known here.

        what: how the setting is called in the note.
        """
        if why := unknown(text):
            self.left_out.append(f"{what} = {text}: {why}; write the value itself")
            return default
        try:
            return kind(text)
        except RefusedValue as exc:
            self.left_out.append(f"{what} = {text}: Dovecot itself refuses this, {exc}; it is not used")
            return default

    def words(self, what: str, text: str) -> list[str]:
        """The words of a list; those that are not known here are left out, with a note."""
        if (why := unknown(text)) and text.startswith("<"):
            self.left_out.append(f"{what} = {text}: {why}; write what is in it")
            return []
        found = []
        for word in text.split():
            if why := unknown(word):
                self.left_out.append(f"{what} has {word}: {why}; write the value itself")
            else:
                found.append(word)
        return found
