"""Notes about an import: settings that are not carried over, and what else to do or to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from director.dovecot.values import RefusedValue
from director.dovecot.variables import why_unknown

Value = TypeVar("Value")


class Notes:
    """The notes of an import, in the order in which they were made: settings that were not carried over,
    and other notes."""

    def __init__(self) -> None:
        self.not_carried_over: list[str] = []
        """Settings that are not carried over, with the reason or the setting that replaces each."""
        self.general: list[str] = []
        """Other things to do or to know before the change."""

    def read(self, what: str, text: str, kind: Callable[[str], Value], default: Value) -> Value:
        """The value of a setting.

        Args:
            what: the name of the setting in a note.
            text: the value as written.
            kind: reads the value; raises RefusedValue.
            default: returned, with a note, if Dovecot refuses the value or it is not known here.
        """
        if why := why_unknown(text):
            self.not_carried_over.append(f"{what} = {text}: {why}; write the value into director.toml")
            return default
        try:
            return kind(text)
        except RefusedValue as exc:
            self.not_carried_over.append(f"{what} = {text}: Dovecot refuses this value: {exc}")
            return default

    def words(self, what: str, text: str) -> list[str]:
        """The words of a list. A word whose value is not known here is omitted, with a note."""
        if (why := why_unknown(text)) and text.startswith("<"):
            self.not_carried_over.append(f"{what} = {text}: {why}; write its content into director.toml")
            return []
        found = []
        for word in text.split():
            if why := why_unknown(word):
                self.not_carried_over.append(f"{what} has {word}: {why}; write the value into director.toml")
            else:
                found.append(word)
        return found
