"""Dovecot's configuration, 2.3 or 2.4, as `doveconf` prints it or a file has it: text -> tree of blocks.

Includes are not followed, and defaults are not known: `doveconf -n` has resolved the ones, and leaves out the
others.
"""

from __future__ import annotations

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


class Doveconf(msgspec.Struct, kw_only=True):
    """One configuration, whole."""

    root: Block
    version: str = ""
    """`2.3.19.1`, `2.4.1-4`, … from doveconf's first line; else that of dovecot_config_version, or none."""

    @property
    def release(self) -> str:
        """`2.3`, `2.4`; empty where the text does not say."""
        return ".".join(self.version.split(".")[:2])


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
            here.settings[match[1]] = _value(match[2])
        elif match := _OPEN.match(_uncommented(line)):
            block = Block(kind=match[1], name=_value(match[2] or ""), settings={}, blocks=[])
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
    """Stripped lines, each with its number; those that end in a backslash with the next."""
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun += line[:-1].strip() + " "
            continue
        yield first, (begun + line.strip()).strip()
        begun, first = "", 0
    if begun:
        yield first, begun.strip()


def _value(text: str) -> str:
    text = text.strip()
    if text == HIDDEN:
        return text
    for quote in ('"', "'"):
        match = re.fullmatch(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}(?:\s+#.*)?", text)
        if match:
            return re.sub(r"\\(.)", r"\1", match[1])
    return _uncommented(text)


def _uncommented(text: str) -> str:
    return re.sub(r"(?:^|\s+)#.*$", "", text)
