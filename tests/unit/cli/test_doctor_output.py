"""How `director doctor` prints its findings."""

from __future__ import annotations

import pytest

from director.cli import doctor
from director.doctor.findings import FAULT, OK, Finding


def finding(area: str, level: str, found: str) -> Finding:
    return Finding(area=area, level=level, check="x", found=found)


def test_an_area_is_printed_once_with_all_its_findings(capsys: pytest.CaptureFixture[str]) -> None:
    """Sockets, units and the running director are looked at one after the other, and each has sockets."""
    found = [
        finding("sockets", OK, "login"),
        finding("kicks", OK, "ipc"),
        finding("sockets", FAULT, "units"),
        finding("director", OK, "answers"),
        finding("sockets", FAULT, "kept by nobody"),
    ]
    doctor._print(found, True)
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line][:-1] == [
        "sockets",
        "login",
        "units",
        "nobody",
        "kicks",
        "ipc",
        "director",
        "answers",
    ]
    doctor._print(found, False)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "sockets",
        "  FAULT   units",
        "  FAULT   kept by nobody",
    ]
