"""The output of `director doctor`."""

from __future__ import annotations

import pytest

from director.cli import doctor
from director.doctor.findings import FAULT, OK, Finding


def finding(area: str, level: str, found: str) -> Finding:
    return Finding(area=area, level=level, check="x", found=found)


def test_an_area_is_printed_once_with_all_its_findings(capsys: pytest.CaptureFixture[str]) -> None:
    """The checks of sockets, of units and of the running director each have findings about sockets."""
    found = [
        finding("sockets", OK, "login"),
        finding("kicks", OK, "ipc"),
        finding("sockets", FAULT, "units"),
        finding("director", OK, "answers"),
        finding("sockets", FAULT, "not kept"),
    ]
    doctor._print(found, True)
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line][:-1] == [
        "sockets",
        "login",
        "units",
        "kept",
        "kicks",
        "ipc",
        "director",
        "answers",
    ]
    doctor._print(found, False)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "sockets",
        "  FAULT   units",
        "  FAULT   not kept",
    ]
