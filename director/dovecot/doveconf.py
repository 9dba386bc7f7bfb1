"""Dovecot's configuration, 2.3 or 2.4, as `doveconf` prints it or a file has it: text -> tree of blocks.

Comments, quotes and long lines are read as Dovecot 2.3 reads them. Includes are not followed, and defaults
are not known: `doveconf -n` has resolved the ones, and leaves out the others. `$NAME` is replaced where NAME
was set before; `director.dovecot.variables` knows the rest.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import msgspec

from director.errors import DoveconfError

HIDDEN = "# hidden, use -P to show it"
"""The value doveconf prints in the place of a secret."""

_VERSION = re.compile(r"# (\d+\.\d+\.\S+) \([0-9a-f]+\): ")
_OPEN = re.compile(r"([A-Za-z0-9_!-]+)(?:\s+(.+?))?\s*\{(\s*\})?$")
_SETTING = re.compile(r"(@?[A-Za-z0-9_/+.-]+)\s*=(?:\s+|$)?(.*)$")
_INCLUDE = re.compile(r"!include(?:_try)?\s")
_PROGRAM = re.compile(r"(?:doveconf|doveadm|dovecot): (Fatal: )?")
VARIABLE = re.compile(r"(?<!\S)\$([A-Za-z0-9_:]+)(?!\S)")
"""A word of a value that stands for another value: `$base_dir`, `$ENV:NAME`."""


class Block(msgspec.Struct, kw_only=True):
    """What stands between braces; the file itself is one too, without kind and name.

    What is set twice has its last value; a block that is opened twice is there twice: `passdb` needs that.
    """

    kind: str = ""
    """`service`, `passdb`, `protocol`, `unix_listener`, …"""
    name: str = ""
    """What stands after the kind, without quotes; often empty."""
    settings: dict[str, str] = {}
    blocks: list[Block] = []

    def all(self, kind: str, name: str | None = None) -> Iterator[Block]:
        """The blocks of one kind directly in this one; with any name where none is given."""
        for block in self.blocks:
            if block.kind == kind and name in (None, block.name):
                yield block

    def get(self, *path: str, default: str = "") -> str:
        """A setting: its name, after kind and name of each block on the way to it. The last one counts."""
        if len(path) == 1:
            return self.settings.get(path[0], default)
        found = default
        for block in self.all(path[0], path[1]):
            found = block.get(*path[2:], default=found)
        return found

    def in_protocol(self, protocol: str, setting: str, default: str = "") -> str:
        """A setting as the programs of one protocol read it: of its block, else of the whole.

        `protocol !imap { … }` is a block of every protocol but imap.
        """
        found = self.get(setting, default=default)
        for block in self.all("protocol"):
            others = block.name.startswith("!") and block.name[1:].strip() != protocol
            if block.name == protocol or others:
                found = block.get(setting, default=found)
        return found


class Doveconf(msgspec.Struct, kw_only=True):
    """One configuration, whole."""

    root: Block
    version: str = ""
    """`2.3.19.1`, `2.4.1-4`, … from doveconf's first line; else that of dovecot_config_version, or none."""

    @property
    def release(self) -> str:
        """`2.3`, `2.4`; empty where the text does not say."""
        return ".".join(self.version.split(".")[:2])


def decoded(content: bytes) -> str:
    """The text of a file. One that PowerShell wrote (`ssh proxy doveconf -n > FILE`) is marked UTF-16."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(text: str, file: str) -> Doveconf:
    """The tree of `text`. file: what it is called in errors.

    Raises DoveconfError, which names the line, for what is no configuration, or was none for Dovecot itself,
    and for includes.
    """
    root, version = Block(), ""
    stack = [root]
    opened = [0]
    for number, line in _lines(text):
        if not version and (match := _VERSION.match(line)):
            version = match[1]
        # Warnings of the program come along where its stderr was kept too.
        if not line or line.startswith("#"):
            continue
        if match := _PROGRAM.match(line):
            if match[1]:
                raise DoveconfError(file, number, f"Dovecot itself cannot read it: {line[match.end() :]}")
            continue
        here = stack[-1]
        if line == "}":
            if len(stack) == 1:
                raise DoveconfError(file, number, "a } that closes nothing")
            stack.pop()
            opened.pop()
        elif _INCLUDE.match(line):
            raise DoveconfError(
                file, number, f"{line!r}: includes are not followed; give me what `doveconf -n` prints"
            )
        elif match := _SETTING.match(line):
            here.settings[match[1]] = _value(match[1], match[2], stack)
        elif match := _OPEN.match(line):
            block = Block(kind=match[1], name=_unquoted(match[2] or ""), settings={}, blocks=[])
            here.blocks.append(block)
            if not match[3]:
                stack.append(block)
                opened.append(number)
        else:
            raise DoveconfError(file, number, f"{line!r} is neither a setting nor a block")
    if len(stack) > 1:
        raise DoveconfError(file, opened[-1], "this block is not closed; is the text cut off?")
    return Doveconf(root=root, version=version or root.get("dovecot_config_version"))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, each with its number; those that end in a backslash with the next."""
    begun, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        first = first or number
        line = _uncommented(line.strip())
        if line.endswith("\\") and not line.startswith("#"):
            begun += line[:-1].strip() + " "
            continue
        yield first, (begun + line).strip()
        begun, first = "", 0
    if begun:
        yield first, begun.strip()


def _value(key: str, text: str, stack: list[Block]) -> str:
    """What a setting comes to, without quotes; only without them do variables count.

    A setting that refers to itself first has its default, which is taken to be empty.
    """
    unquoted = _unquoted(text)
    if text == HIDDEN or unquoted != text:
        return unquoted

    def replaced(match: re.Match[str]) -> str:
        known = (block.settings[match[1]] for block in reversed(stack) if match[1] in block.settings)
        return next(known, "" if match[1] == key else match[0])

    return VARIABLE.sub(replaced, text).strip()


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0]:
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _uncommented(line: str) -> str:
    """The line up to the first # that is not in quotes, also one without a blank before it: as Dovecot does.

    A line that is a comment stays: the first one of doveconf has the version. So does the mark of a secret.
    """
    if line.startswith("#") or line.endswith(f"= {HIDDEN}"):
        return line
    quote, at = "", 0
    while at < len(line):
        character = line[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        elif character == "#":
            return line[:at].rstrip()
        at += 1
    return line
