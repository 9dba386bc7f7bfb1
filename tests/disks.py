"""File systems for single tests: small, full, read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.needs import needs

PAGE = 4096


@contextmanager
def small_disk(folder: Path, *, size: str = "1m") -> Iterator[Path]:
    """Give a small file system that is mounted while the block runs. Only root may mount one."""
    needs("mount", "umount")
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(
            f"only root can mount a small file system, if the machine allows it: {mounted.stderr.strip()}"
        )
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # --lazy: a failed test still has files open


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def fill_up(disk: Path) -> Path:
    """Make a file that takes all free space, and return its path."""
    file = disk / "fill"
    with file.open("wb", buffering=0) as data:
        try:
            while True:
                data.write(bytes(PAGE))
        except OSError:
            return file
