"""The flush program: its setting, its request, its answer as with Dovecot 2.3's director."""

from __future__ import annotations

import pytest

from director.wire.flushprogram import (
    OUTPUT_LIMIT,
    Command,
    FlushProgram,
    FlushRequest,
    FlushResult,
    Output,
    TcpSocket,
    UnixSocket,
    arguments,
    program_for,
    read_setting,
    script_request,
)

REQUEST = FlushRequest(2677887420, "127.0.1.1", "2001:db8::2", False, 50, "mail2.example.com")


def fed(*pieces: bytes) -> Output:
    output = Output()
    for piece in pieces:
        output.feed(piece)
    return output


@pytest.mark.parametrize(
    ("setting", "program"),
    [
        ("unix:/run/flush", UnixSocket("/run/flush")),
        ("unix:/run/%i/%{host}", UnixSocket("/run/2001:db8::2/mail2.example.com")),
        ("unix:/run/100%%%h", UnixSocket("/run/100%mail2.example.com")),
        ("tcp:%{ip}:4155", TcpSocket("2001:db8::2", 4155)),
        ("tcp:[2001:db8::1]:4155", TcpSocket("2001:db8::1", 4155)),
        ("tcp:%h:4155", TcpSocket("mail2.example.com", 4155)),
        ("exec:/bin/flush", Command(["/bin/flush"])),
        ("exec:/bin/flush -v  %h:%i", Command(["/bin/flush", "-v", "mail2.example.com:2001:db8::2"])),
    ],
)
def test_variables_stand_for_the_new_host(setting: str, program: FlushProgram) -> None:
    assert program_for(setting, REQUEST) == program


@pytest.mark.parametrize(
    "setting", ["", "flush", "unix:", "tcp:h:65536", "tcp:h:x", "exec:flush", "unix:/%q"]
)
def test_a_setting_that_names_no_program_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"expected|is no variable"):
        read_setting(setting)


def test_the_program_gets_the_arguments_that_dovecot_2_3_gives_it() -> None:
    assert arguments(REQUEST) == ["FLUSH", "2677887420", "127.0.1.1", "2001:db8::2", "down", "50"]
    assert script_request(FlushRequest(7, "10.0.0.1", "10.0.0.2", True, 100, "")) == (
        b"VERSION\tscript\t4\t0\n-\nFLUSH\n7\n10.0.0.1\n10.0.0.2\nup\n100\n\n"
    )


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"+\n", FlushResult(True, [], "")),
        (b"one\ntwo\n+\n", FlushResult(True, ["one", "two"], "")),
        (b"-\n", FlushResult(False, [], "the program failed")),
        (b"one\ntwo\n-\n", FlushResult(False, ["one", "two"], "the program failed")),
        (b"no line end-\n", FlushResult(False, ["no line end"], "the program failed")),
        (b"", FlushResult(False, [], "no result code came")),
        (b"+", FlushResult(False, ["+"], "no result code came")),
        (b"?\n", FlushResult(False, [], "unexpected result code '?\\n'")),
        (b"one\n+\n\n", FlushResult(False, ["one", "+"], "unexpected result code '\\n\\n'")),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_last_two_bytes_of_a_script_are_its_result(answer: bytes, result: FlushResult, size: int) -> None:
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    assert fed(*pieces).of_script() == result


@pytest.mark.parametrize(
    ("status", "problem"),
    [(0, ""), (3, "the program failed with exit status 3"), (-9, "the program failed with signal 9")],
)
def test_the_exit_status_of_a_command_is_its_result(status: int, problem: str) -> None:
    assert fed(b"one\nt", b"wo").of_command(status) == FlushResult(status == 0, ["one", "two"], problem)


def test_endless_output_is_shortened_but_its_result_is_read() -> None:
    result = fed(*[b"x" * 10_000] * 10, b"-", b"\n").of_script()
    assert (result.ok, result.output) == (False, ["x" * OUTPUT_LIMIT])
