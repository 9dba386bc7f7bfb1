"""`director demo` as a person sees it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from director.demo.ports import port_problem
from tests.needs import needs

DEMO = [sys.executable, "-m", "director", "demo"]


def test_the_demo_ends_well_and_leaves_nothing_behind(folder: Path) -> None:
    needs("dovecot", "doveadm")
    environment = os.environ | {"TMPDIR": str(folder), "COLUMNS": "80"}
    result = subprocess.run([*DEMO, "--once"], env=environment, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    assert "All users kept their hosts." in result.stdout
    assert list(folder.iterdir()) == []
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_demo_stays_up_until_it_is_interrupted_and_then_cleans_up(folder: Path) -> None:
    needs("dovecot", "doveadm")
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(DEMO, env=environment, stdout=subprocess.PIPE, text=True)
    alarm = threading.Timer(100, demo.kill)
    alarm.start()
    assert demo.stdout is not None
    with demo, demo.stdout:
        shown = ""
        while "Ctrl-C stops everything" not in shown:
            line = demo.stdout.readline()
            assert line, shown
            shown += line
        config = re.search(r"DIRECTOR_CONFIG=(\S+)", shown)
        assert config is not None
        status = [sys.executable, "-m", "director", "-c", config[1], "status"]
        looked = subprocess.run(status, capture_output=True, text=True, timeout=30)
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        code = demo.wait()
    alarm.cancel()
    assert looked.returncode == 0
    assert "127.0.1.3" in looked.stdout
    assert code == 0
    assert list(folder.iterdir()) == []


def test_the_process_that_uses_a_port_is_named() -> None:
    with socket.create_server(("127.0.22.99", 0)) as taken:
        port = taken.getsockname()[1]
        message = port_problem("127.0.22.99", port)
    assert f"127.0.22.99:{port} is taken: process {os.getpid()} (" in message
