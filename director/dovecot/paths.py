"""Paths of sockets in Dovecot's configuration, which may be written in several ways."""

from __future__ import annotations

import posixpath

BASE_DIR = "/run/dovecot"


def folder(path: str) -> str:
    """Return a folder in its shortest form: `/run/dovecot` for `/var/run/dovecot/`."""
    path = posixpath.normpath(path) if path else BASE_DIR
    return path.replace("/var/run/", "/run/", 1) if path.startswith("/var/run/") else path


def socket(path: str, base_dir: str) -> str:
    """An absolute path; a relative one starts at `base_dir`."""
    return folder(posixpath.join(folder(base_dir), path))


def login_socket(word: str, base_dir: str, *, chrooted: bool = True) -> str:
    """The absolute path of `word` for a login process: relative to login/, which usually is its chroot."""
    login = f"{folder(base_dir)}/login"
    word = folder(word)
    if word.startswith("/") and chrooted:
        word = word.lstrip("/")
    return posixpath.normpath(posixpath.join(login, word))


def below(path: str, base_dir: str) -> str:
    """The path relative to `base_dir`, or the unchanged path if it is not below `base_dir`."""
    prefix = f"{folder(base_dir)}/"
    return path.removeprefix(prefix)
