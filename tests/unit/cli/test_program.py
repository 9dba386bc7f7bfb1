"""Options, help, errors and exit codes of the program as a whole."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from director.cli.main import program
from director.cli.sections import SECTIONS
from tests.unit.cli.conftest import Director, alone
from tests.unit.web.service import ONE

PROGRAM = [sys.executable, "-m", "director"]


def test_help_shows_every_command_in_its_section() -> None:
    help_text = alone("--help").stdout
    listed = [name for section in SECTIONS for name in section.commands]
    assert sorted(listed) == sorted(program.commands)
    assert [name for name in listed if not re.search(rf"^  {name} +\S", help_text, re.MULTILINE)] == []
    assert max(map(len, help_text.splitlines())) <= 80


@pytest.mark.parametrize("command", sorted(set(program.commands)))
def test_every_command_explains_itself(command: str) -> None:
    result = alone(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: director {command} ")


def test_without_a_command_help_is_shown_as_a_usage_error() -> None:
    result = alone()
    assert result.exit_code == 64
    assert result.stderr.startswith("Usage: director ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("status", "--nonsense"),
        ("update", "127.0.1.1"),
        ("update", "127.0.1.1", "heavy"),
        ("status", "-t", "gold"),
        ("status", ""),
        ("ring",),
        ("ring", "nonsense"),
        ("-S", "https://127.0.0.1:9092", "status"),
        ("-S", "http://127.0.0.1:port", "status"),
        ("-S", "http://", "status"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_64(arguments: tuple[str, ...]) -> None:
    result = alone(*arguments)
    assert (result.exit_code, result.stdout) == (64, "")
    assert re.fullmatch(r"director: [^\n]+\n", result.stderr)


def test_option_and_command_print_the_same_version() -> None:
    assert alone("--version").stdout == alone("version").stdout
    assert alone("version").stdout.startswith("director ")


def test_options_can_stand_before_and_after_the_command(director: Director) -> None:
    before, after = alone("-S", director.where, "dump"), alone("dump", "-S", director.where)
    assert before.stdout == after.stdout != ""


def test_a_socket_without_a_listener_is_exit_code_69(tmp_path: Path) -> None:
    result = alone("-S", str(tmp_path / "none.sock"), "status")
    assert result.exit_code == 69
    assert result.stderr == (
        f"director: {tmp_path}/none.sock: no director answers there (No such file or directory);"
        " start it, or name another director with -S\n"
    )


def test_the_socket_is_taken_from_the_configuration(director: Director, tmp_path: Path) -> None:
    config = tmp_path / "director.toml"
    config.write_text(f'[listen.api]\npath = "{director.where}"\n')
    assert alone("-c", str(config), "dump").exit_code == 0
    assert alone("dump", "-c", str(config)).exit_code == 0


def test_the_configuration_can_be_named_in_the_environment(
    director: Director, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "director.toml"
    config.write_text(f'[listen.api]\npath = "{director.where}"\n')
    monkeypatch.setenv("DIRECTOR_CONFIG", str(config))
    assert alone("dump").exit_code == 0
    assert alone("-c", str(tmp_path / "other.toml"), "dump").exit_code == 78


def test_over_tcp_the_token_comes_from_the_environment(
    director: Director, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alone("-S", url, "dump").exit_code == 0
    refused = alone("-S", url, "down", "127.0.1.1")
    assert refused.exit_code == 77
    assert refused.stderr.endswith("; set DIRECTOR_TOKEN to that token\n")
    monkeypatch.setenv("DIRECTOR_TOKEN", "right-token")
    assert alone("-S", url, "down", "127.0.1.1").exit_code == 0


def test_a_wrong_token_is_refused_and_not_repeated(
    director: Director, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRECTOR_TOKEN", "wrong-token")
    refused = alone("-S", url, "down", "127.0.1.1")
    assert refused.exit_code == 77
    assert "wrong-token" not in refused.output


def test_an_internal_error_of_the_director_is_exit_code_1(director: Director) -> None:
    director.service.node.operations.queries.user_status = None  # to call it is a bug
    result = director("status", "dave")
    assert (result.exit_code, result.stderr) == (
        1,
        "director: internal error of the director; its log has the details\n",
    )


def test_a_command_imports_neither_the_daemon_nor_the_library_for_tables(director: Director) -> None:
    check = (
        "import sys; from director.cli.main import program\n"
        "try: program(['-S', sys.argv[1], 'status'])\n"
        "except SystemExit: pass\n"
        "heavy = {'litestar', 'uvicorn', 'anyio', 'rich', 'tomllib', 'director.service', 'director.web'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", check, director.where], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colour_unless_no_color_is_set(
    director: Director, setting: dict[str, str], coloured: bool
) -> None:
    controller, terminal = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", **setting}
    subprocess.run([*PROGRAM, "-S", director.where, "status"], stdout=terminal, env=environ, check=True)
    os.close(terminal)
    output = _all_of(controller).decode()
    os.close(controller)
    assert ("\x1b[31mdown" in output) == coloured
    assert "2023-11-14" in output


def _all_of(terminal: int) -> bytes:
    """The output that was written to a terminal whose other end is closed. It is read in pieces."""
    output = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            output += piece
    return output


def test_a_reader_that_closes_the_pipe_causes_no_error_message(director: Director) -> None:
    for number in range(4000):
        director.service.node.put(f"user{number}", ONE)
    command = subprocess.Popen(
        [*PROGRAM, "-S", director.where, "map"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    command.stdout.readline()
    command.stdout.close()
    _, errors = command.communicate()
    assert (command.returncode, errors) == (1, "")


def test_output_that_cannot_be_written_is_one_line(director: Director) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [*PROGRAM, "-S", director.where, "map"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (ran.returncode, ran.stderr) == (1, "director: standard output: No space left on device\n")


# ---- what the program is started with


@pytest.mark.shows("A-9")
def test_closed_standard_descriptors_are_opened_at_the_start(tmp_path: Path) -> None:
    """The event loop aborts where it is to close one of them."""
    program = (
        "import os, sys\n"
        "[os.close(number) for number in range(3)]\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"
        "sys.argv = ['director', 'serve', '-c', 'none.toml']\n"
        "from director.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as exc:\n"
        f"    shown = [os.readlink(f'/proc/self/fd/{{number}}') for number in range(3)]\n"
        f"    open({str(tmp_path / 'out')!r}, 'w').write(f'{{exc.code}} {{shown}} {{sys.stderr.fileno()}}')\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
    assert (tmp_path / "out").read_text() == f"78 {['/dev/null'] * 3} 2"


@pytest.mark.shows("A-9")
def test_too_few_descriptors_end_the_start_with_the_number_needed(tmp_path: Path) -> None:
    (tmp_path / "director.toml").write_text('[backends]\nmail_servers = ["127.0.3.1"]\n')
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
        f"sys.argv = ['director', 'serve', '-c', {str(tmp_path / 'director.toml')!r}]\n"
        "from director.cli.main import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 78
    assert "open files are limited to 60, but the director needs 80, " in result.stderr


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    program = (
        "import resource\n"
        "from director.service.lifecycle import descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 500))\n"
        "descriptors.raise_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout == "(500, 500)\n"
