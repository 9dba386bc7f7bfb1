"""Dovecot's configuration, 2.3 or 2.4, as `doveconf` prints it or a file has it: text -> tree of blocks.

Comments, quotes and long lines are read as Dovecot 2.3 reads them. Includes are not followed, because
`doveconf -n` resolves them. Defaults are not known, because it omits them. `$NAME` is replaced if NAME is set
before; `director.dovecot.variables` replaces the others.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import msgspec

from director.errors import DoveconfError

HIDDEN = "# hidden, use -P to show it"
"""The value that doveconf prints instead of a secret."""

_VERSION = re.compile(r"# (\d+\.\d+\.\S+) \([0-9a-f]+\): ")
_OPEN = re.compile(r"([A-Za-z0-9_!-]+)(?:\s+(.+?))?\s*\{(\s*\})?$")
_SETTING = re.compile(r"(@?[A-Za-z0-9_/+.-]+)\s*=(?:\s+|$)?(.*)$")
_INCLUDE = re.compile(r"!include(?:_try)?\s")
_PROGRAM = re.compile(r"(?:doveconf|doveadm|dovecot): (Fatal: )?")
VARIABLE = re.compile(r"(?<!\S)\$([A-Za-z0-9_:]+)(?!\S)")
"""A word of a value that stands for another value: `$base_dir`, `$ENV:NAME`."""


class Block(msgspec.Struct, kw_only=True):
    """The settings and blocks between braces. The whole file is a block without kind and name.

    A setting that is set twice has the last value. A block that is opened twice is kept twice.
    """

    kind: str = ""
    """`service`, `passdb`, `protocol`, `unix_listener`, …"""
    name: str = ""
    """The text after the kind, without quotes; often empty."""
    settings: dict[str, str] = {}
    blocks: list[Block] = []

    def all(self, kind: str, name: str | None = None) -> Iterator[Block]:
        """The blocks of a kind directly in this block. Without a name, blocks of all names."""
        for block in self.blocks:
            if block.kind == kind and name in (None, block.name):
                yield block

    def get(self, *path: str, default: str = "") -> str:
        """The last value of a setting.

        Args:
            path: kind and name of each block on the way to the setting, then the name of the setting.
        """
        if len(path) == 1:
            return self.settings.get(path[0], default)
        found = default
        for block in self.all(path[0], path[1]):
            found = block.get(*path[2:], default=found)
        return found

    def in_protocol(self, protocol: str, setting: str, default: str = "") -> str:
        """A setting as the programs of a protocol read it: from its block, else from the whole file.

        `protocol !imap { … }` is a block of every protocol but imap.
        """
        found = self.get(setting, default=default)
        for block in self.all("protocol"):
            others = block.name.startswith("!") and block.name[1:].strip() != protocol
            if block.name == protocol or others:
                found = block.get(setting, default=found)
        return found


class Doveconf(msgspec.Struct, kw_only=True):
    """A complete configuration."""

    root: Block
    version: str = ""
    """`2.3.19.1`, `2.4.1-4`, … from doveconf's first line; else that of dovecot_config_version, or none."""

    @property
    def release(self) -> str:
        """`2.3` or `2.4`; empty if the text does not say."""
        return ".".join(self.version.split(".")[:2])


def decoded(content: bytes) -> str:
    """The text of a file. PowerShell writes UTF-16 with a mark (`ssh proxy doveconf -n > FILE`)."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read(text: str, file: str) -> Doveconf:
    """The tree of a configuration.

    Args:
        file: name of the text in errors.

    Raises:
        DoveconfError: the text is not a configuration, Dovecot could not read it, or it has includes. The
            error names the line.
    """
    root, version = Block(), ""
    stack = [root]
    opened = [0]
    for number, line in _lines(text):
        if not version and (match := _VERSION.match(line)):
            version = match[1]
        # The text may also have the warnings that the program printed on stderr.
        if not line or line.startswith("#"):
            continue
        if match := _PROGRAM.match(line):
            if match[1]:
                raise DoveconfError(
                    file, number, f"Dovecot cannot read this configuration: {line[match.end() :]}"
                )
            continue
        here = stack[-1]
        if line == "}":
            if len(stack) == 1:
                raise DoveconfError(file, number, "this } closes no block")
            stack.pop()
            opened.pop()
        elif _INCLUDE.match(line):
            raise DoveconfError(
                file, number, f"{line!r}: includes are not followed; give the output of `doveconf -n`"
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
        raise DoveconfError(file, opened[-1], "this block is not closed; give the complete text")
    return Doveconf(root=root, version=version or root.get("dovecot_config_version"))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, with their numbers. A line that ends in a backslash is joined with the next."""
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
    """The value of a setting, without quotes. Variables are replaced only in a value without quotes.

    A setting that refers to itself begins with its default, which is assumed to be empty.
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
    """The line up to the first # that is not in quotes, even without a blank before it, as in Dovecot.

    A comment line is kept, because doveconf's first line has the version. So is the mark of a secret.
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
