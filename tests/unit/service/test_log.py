"""Log lines: one an event, readable for people and programs, without secrets."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.service.log import (
    REPEATED,
    REPEATED_EVERY,
    LibraryHandler,
    LimitedLog,
    Log,
    capture_logging,
    everything_logged,
)
from director.service.logwriter import LogWriter
from director.service.secret import Secret

ROOT = Path(__file__).parents[3]


class Lines(list[str]):
    """The lines that were written."""

    now = 0.0
    """Monotonic seconds."""

    def log(self, **settings: object) -> Log:
        clocks = {"clock": lambda: 1700000000.25, "monotonic": lambda: self.now}
        return Log(write=self.append, **clocks | settings)  # type: ignore[arg-type]


@pytest.fixture
def lines() -> Lines:
    return Lines()


def test_a_line_has_time_level_and_event_first_and_then_the_fields_as_given(lines: Lines) -> None:
    lines.log().info("host_changed", host="10.1.0.1", weight=50, up=True, by="admin")
    assert lines == [
        "time=2023-11-14T22:13:20.250Z level=info event=host_changed"
        " host=10.1.0.1 weight=50 up=true by=admin\n"
    ]


def test_a_json_line_has_the_same_keys_in_the_same_order(lines: Lines) -> None:
    lines.log(format="json").warning("store_unreachable", store="redis", took=1.5, tags=["a", "b"])
    assert lines == [
        '{"time":"2023-11-14T22:13:20.250Z","level":"warning","event":"store_unreachable",'
        '"store":"redis","took":1.5,"tags":["a","b"]}\n'
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a=b", '"a=b"'),
        ("back\\slash", '"back\\\\slash"'),
        ("tab\tline\nend\r", '"tab\\tline\\nend\\r"'),
        ("\x00\x1b[31m\x85\u2028", '"\\u0000\\u001b[31m\\u0085\\u2028"'),
        ("jürgen@example.com", "jürgen@example.com"),
        (b"bytes\xff", '"bytes\\\\xff"'),
        ("\udcff", '"\\udcff"'),
        (7, "7"),
        (0.5, "0.5"),
        (float("nan"), "nan"),
        (False, "false"),
        (["a", "b c"], '"a,b c"'),
    ],
)
def test_values_are_quoted_where_they_need_it(lines: Lines, value: object, written: str) -> None:
    lines.log().info("e", value=value)
    assert lines[0].partition(" value=")[2] == written + "\n"


@given(st.text(st.characters(exclude_categories=[])), st.sampled_from(["logfmt", "json"]))
def test_whatever_a_value_holds_it_stays_on_one_printable_line(value: str, format: str) -> None:
    lines = Lines()
    lines.log(format=format).info("e", value=value, user=value)
    (line,) = lines
    assert line.splitlines() == [line[:-1]]
    assert line.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", line)


@given(st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: c != "=")))
def test_a_json_line_gives_back_the_value(value: str) -> None:
    lines = Lines()
    lines.log(format="json").info("e", value=value)
    assert json.loads(lines[0])["value"] == value


def test_a_field_without_a_value_is_left_out(lines: Lines) -> None:
    lines.log().info("e", reason=None, host="h")
    assert lines[0].endswith("event=e host=h\n")


@pytest.mark.parametrize("name", ["time", "level"])
def test_no_field_takes_the_place_of_what_every_line_has(lines: Lines, name: str) -> None:
    with pytest.raises(AssertionError, match=name):
        lines.log().info("e", **{name: "x"})


def test_lines_below_the_level_are_not_written(lines: Lines) -> None:
    log = lines.log(level="warning")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line.split("event=")[1] for line in lines] == ["c\n", "d\n"]


def test_whether_a_level_is_written_can_be_asked_before_the_work(lines: Lines) -> None:
    log = lines.log(level="info")
    assert log.writes("info")
    assert not log.writes("debug")


@pytest.mark.parametrize(
    "name", ["pass", "resp", "password", "token", "secret", "ring_secret", "Password", "api_token"]
)
@pytest.mark.parametrize("format", ["logfmt", "json"])
def test_a_field_that_is_named_like_a_secret_is_never_written(lines: Lines, name: str, format: str) -> None:
    lines.log(format=format).error("e", **{name: "hunter2"})
    assert "hunter2" not in lines[0]
    assert "***" in lines[0]


def test_a_field_whose_name_only_contains_such_a_word_is_written(lines: Lines) -> None:
    lines.log().info("e", passed=5, bypass="yes")
    assert "passed=5 bypass=yes" in lines[0]


@pytest.mark.parametrize(
    "text",
    [
        "OK\t1\tuser=alice\tpass=hun ter2\tproxy",
        "AUTH\t1\tPLAIN\tresp=hunter2=",
        "redis://h?username=bob&password=hunter2",
        "master_pass=hunter2",
    ],
)
def test_a_secret_inside_a_text_is_not_written_either(lines: Lines, text: str) -> None:
    lines.log().error("bad_line", line=text, lines=[text], data=text.encode(), error=ValueError(text))
    assert "ter2" not in lines[0]
    assert lines[0].count("***") == 4


def test_a_secret_from_a_file_is_not_written_under_any_name(lines: Lines) -> None:
    lines.log().info("e", value=Secret(b"hunter2"))
    assert lines[0].endswith("value=***\n")


def test_user_names_are_written_as_they_are_unless_they_are_to_be_hidden(lines: Lines) -> None:
    lines.log().info("moved", user="alice")
    assert lines[0].endswith("user=alice\n")


def test_hidden_user_names_appear_as_what_stands_for_them(lines: Lines) -> None:
    log = lines.log(hide_user=lambda name: 4711 if name == "alice" else 0)
    log.info("moved", user="alice", master_user=b"alice", host="alice", hash=5)
    assert lines[0].endswith("user=4711 master_user=4711 host=alice hash=5\n")


@pytest.mark.shows("A-11")
def test_an_event_of_every_user_is_written_so_many_times_and_then_counted(lines: Lines) -> None:
    log = lines.log()
    for number in range(20_000):
        log.error("flush_program_failed", user=f"user{number}")
    log.info("host_changed")
    assert len(lines) == REPEATED + 1
    assert "event=host_changed" in lines[-1]
    lines.now = REPEATED_EVERY
    log.error("flush_program_failed", user="later")
    assert [line.partition("level=")[2] for line in lines[-2:]] == [
        f"warning event=repeated_lines_left_out of=flush_program_failed lines={20_000 - REPEATED}\n",
        "error event=flush_program_failed user=later\n",
    ]


def test_lines_left_out_are_reported_although_none_follows(lines: Lines) -> None:
    log = lines.log()
    for _ in range(REPEATED + 7):
        log.warning("connection_failed")
    lines.now = REPEATED_EVERY - 0.1
    log.report_left_out()
    assert len(lines) == REPEATED
    lines.now = REPEATED_EVERY
    log.report_left_out()
    log.report_left_out()
    assert [line.partition("event=")[2] for line in lines[REPEATED:]] == [
        "repeated_lines_left_out of=connection_failed lines=7\n"
    ]


def test_every_line_of_level_debug_is_written(lines: Lines) -> None:
    log = lines.log(level="debug")
    for _ in range(REPEATED + 1):
        log.debug("admin_client_disconnected")
    assert len(lines) == REPEATED + 1


def test_a_noisy_library_hides_no_other(captured: Lines) -> None:
    for _ in range(REPEATED + 1):
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("asyncio").error("lost")
    assert len(captured) == REPEATED + 1
    assert "text=lost" in captured[-1]


def test_a_repeated_event_is_written_a_few_times_and_then_counted(lines: Lines) -> None:
    limited = LimitedLog(lines.log(), burst=2, every=10.0)
    for now in (0.0, 1.0, 2.0, 3.0, 9.9, 10.0, 10.1):
        limited.warning(now, "bad_line", listener="login")
    assert [line.partition("listener=login")[2] for line in lines] == ["\n", "\n", " left_out=3\n", "\n"]


def test_each_key_of_an_event_is_counted_by_itself(lines: Lines) -> None:
    limited = LimitedLog(lines.log(), burst=1, every=10.0)
    for key in ("a", "b", "a"):
        limited.warning(0.0, "bad_line", key, peer=key)
    assert [line[-7:] for line in lines] == ["peer=a\n", "peer=b\n"]


@pytest.mark.shows("A-11")
def test_endless_new_keys_use_neither_endless_memory_nor_an_endless_log(lines: Lines) -> None:
    limited = LimitedLog(lines.log(), burst=1, every=1e9, keys=10)
    for number in range(1000):
        limited.warning(float(number), "bad_line", str(number))
    assert len(limited) == 10
    assert len(lines) == REPEATED


@pytest.fixture
def captured(lines: Lines) -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    capture_logging(lines.log(level="info"))
    yield lines
    root.handlers[:] = handlers
    root.setLevel(level)


def test_what_libraries_log_becomes_a_line_like_all_others(captured: Lines) -> None:
    logging.getLogger("asyncio").error("lost %s", "something\nelse")
    logging.getLogger("asyncio").debug("noise")
    assert [line.split(" ", 1)[1] for line in captured] == [
        'level=error event=library_logged logger=asyncio text="lost something\\nelse"\n'
    ]


def test_a_librarys_exception_is_logged_with_its_place(captured: Lines) -> None:
    try:
        raise KeyError("alice")
    except KeyError:
        logging.getLogger("uvicorn").exception("request failed")
    assert len(captured) == 1
    assert "KeyError: 'alice'" in captured[0]
    assert "test_log.py" in captured[0]


@pytest.mark.parametrize(
    ("text", "args"), [("%d", ("no number",)), ("%s-%s", ("one",)), ("%(name)s", ({"other": 1},))]
)
def test_a_librarys_broken_log_call_does_not_raise(lines: Lines, text: str, args: tuple[object]) -> None:
    record = logging.makeLogRecord({"name": "x", "msg": text, "args": args})
    LibraryHandler(lines.log()).handle(record)
    assert f"event=library_logged logger=x text={text}" in lines[0]


@pytest.mark.shows("A-15")
def test_what_is_printed_while_a_director_runs_is_logged_and_not_written_by_the_loop(captured: Lines) -> None:
    with everything_logged(captured.log(), LogWriter(2)):
        print("one\ntwo")
        print("three", file=sys.stderr)
        traceback.print_exception(KeyError("four"))
    note = 'note="a library printed this instead of logging it; the director continues"'
    assert [line.partition("event=")[2] for line in captured] == [
        f"text_printed text=one {note}\n",
        f"text_printed text=two {note}\n",
        f"text_printed text=three {note}\n",
        f"text_printed text=\"KeyError: 'four'\" {note}\n",
    ]


def test_a_warning_of_python_is_logged(captured: Lines) -> None:
    with (
        warnings.catch_warnings(),
        everything_logged(captured.log(), LogWriter(2)),
    ):
        warnings.simplefilter("always")
        warnings.warn("a resource is left open", ResourceWarning, stacklevel=1)
    assert "event=library_logged logger=py.warnings" in captured[0]
    assert "a resource is left open" in captured[0]


class Finalized:
    def __del__(self) -> None:
        raise ZeroDivisionError("in a finalizer")


def test_exceptions_without_a_caller_are_logged_with_their_place(captured: Lines) -> None:
    with everything_logged(captured.log(), LogWriter(2)):
        Finalized()
        thread = threading.Thread(target=lambda: 1 // 0)
        thread.start()
        thread.join()
    assert "in a finalizer" in captured[0]
    assert "in __del__" in captured[0]
    assert 'text="an exception ended a thread"' in captured[1]
    assert "test_log.py" in captured[1]


def test_the_report_of_dropped_lines_is_a_line_like_all_others(captured: Lines) -> None:
    writer = LogWriter(2)
    with everything_logged(captured.log(format="json", level="error"), writer):
        line = json.loads(writer.report(7))
    assert line["event"] == "log_lines_dropped"
    assert line["lines"] == 7


def test_no_event_of_the_core_has_a_field_that_the_log_adds_itself() -> None:
    """A field `left_out` in an event of the core closed the link to the neighbour that caused it."""
    added = {"time", "level", "event", "left_out"}
    keys = {
        key.value
        for path in (ROOT / "director/core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert "since_last_line" in keys
    assert added.isdisjoint(keys)
