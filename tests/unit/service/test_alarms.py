"""The alarms about directors that differ from this director."""

from __future__ import annotations

import pytest

from director.service.operations.alarms import ring_alarms
from director.types import MemberId
from tests.unit.core.cores import Played

OTHER = MemberId("10.0.0.2:9090")


@pytest.mark.parametrize(
    ("what", "value", "text"),
    [
        (
            "users.expire",
            "60 s",
            "users.expire is 60 s at 10.0.0.2:9090, but 900 s here; write the same value into both "
            "files, then run director reload --exec",
        ),
        (
            "users.username_hash",
            "%u",
            "users.username_hash is %u at 10.0.0.2:9090, but %Lu here; write the same value into both "
            "files, then run director reload --exec",
        ),
        (
            "users.username_hash",
            "%Lu *",
            "users.master_user_separator is * at 10.0.0.2:9090, but none here; write the same value into "
            "both files, then run director reload --exec",
        ),
        (
            "users.username_hash",
            "%n +",
            "users.username_hash with users.master_user_separator is %n + at 10.0.0.2:9090, but %Lu here; "
            "write the same value into both files, then run director reload --exec",
        ),
    ],
)
def test_an_alarm_about_another_setting_names_both_values(what: str, value: str, text: str) -> None:
    core = Played().core
    core.ring.refused[OTHER] = {what: value}
    assert [alarm.text for alarm in ring_alarms(core)] == [text]
    assert [(alarm.kind, alarm.about) for alarm in ring_alarms(core)] == [(what, OTHER)]
