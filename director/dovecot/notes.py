"""What the import tells about a configuration: what it could not carry over, and what else is to be done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from director.dovecot.values import RefusedValue
from director.dovecot.variables import unknown

Value = TypeVar("Value")


class Notes:
    """Both lists, in the order in which the notes were made."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        """What was set and is not carried over, with the reason or what stands for it."""
        self.mind: list[str] = []
        """What else to do or to know before the change."""

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
