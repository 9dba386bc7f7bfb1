"""Only anvils that spin are ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.spinning import end_spinning_anvils


def test_only_an_anvil_that_spins_is_ended(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    programs = {name: tmp_path / name for name in ("anvil", "hammer")}
    for program in programs.values():
        shutil.copy(os.path.realpath(shell), program)
    spin = ["-c", "while :; do :; done"]
    anvil = subprocess.Popen([programs["anvil"], *spin])
    hammer = subprocess.Popen([programs["hammer"], *spin])
    idle = subprocess.Popen([programs["anvil"], "-c", "read line"], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 15
        while not (ended := end_spinning_anvils(cpu=0.05)) and time.monotonic() < deadline:
            os.sched_yield()
        assert ended == [anvil.pid]
        assert anvil.wait(10) == -9
        assert (hammer.poll(), idle.poll()) == (None, None)
    finally:
        for process in (anvil, hammer, idle):
            process.kill()
            process.communicate()
