"""Which of the two hot paths is used."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.twins import compiled

QUESTION = "from director.wire import hotpath; print(hotpath.COMPILED, hotpath.UserTable.__module__)"


def answer(**environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "DIRECTOR_PURE_PYTHON"}
    command = [sys.executable, "-c", QUESTION]
    return subprocess.run(
        command, env=variables | environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_compiled_one_is_used_where_it_is_built() -> None:
    assert compiled().UserTable.__module__ == "director.wire._fast"
    assert answer() == "True director.wire._fast"


def test_the_plain_one_is_used_on_request() -> None:
    assert answer(DIRECTOR_PURE_PYTHON="1") == "False director.core.placement.users"
