"""A clock for a process that a test can step: libfaketime. The monotonic clock stays true."""

from __future__ import annotations

from pathlib import Path

from tests.needs import cannot_run

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


class Clock:
    def __init__(self, file: Path) -> None:
        """Begin without an offset. `file` is for the offset, and for this clock only."""
        if not LIBRARIES:
            cannot_run(
                "not installed: faketime; `make test` as root installs it, or use your package manager"
            )
        self._file = file
        self.set(0)
        self.environ = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # the workaround for an old libc hangs in 2106
        }

    def set(self, seconds: float) -> None:
        """Set the clock ahead of the true time by `seconds`, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}\n")
        new.replace(self._file)
