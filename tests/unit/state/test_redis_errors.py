"""The meaning of errors of Redis servers, also of errors that not every version can be made to send."""

from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ResponseError,
)

from state.base import StoreRefused, StoreUnavailable
from state.passwords import Password
from state.redis_clients import RedisAddress
from state.redis_errors import translated

SECRET = "hunter2"
URL = "redis://host:6379/0?prefix=dd:"
ADDRESS = RedisAddress(url=URL, password=Password(SECRET), prefix="dd:")
IN_SCRIPT = "Error running script (call to f_0123): @user_script:9: "


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (OutOfMemoryError("command not allowed", status_code="OOM"), "OOM"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        (ResponseError(f"{IN_SCRIPT}-OOM command not allowed", status_code="ERR"), "OOM"),
        (
            ResponseError(f"{IN_SCRIPT}@user_script: 9: -READONLY You can't", status_code="ERR"),
            "READONLY",
        ),
        (ResponseError("The user executing the script can't run this command", status_code="ERR"), "NOPERM"),
        (ResponseError("ACL failure in script: User director has no", status_code="ERR"), "NOPERM"),
        (AuthenticationError("Authentication required.", status_code="NOAUTH"), "NOAUTH"),
        (AuthenticationError("invalid username-password pair", status_code="WRONGPASS"), "WRONGPASS"),
    ],
)
def test_an_answer_that_an_operator_must_act_on_is_refused_with_its_code_and_advice(
    answer: ResponseError, code: str
) -> None:
    failure = translated(answer, URL, "swap_buckets")
    assert isinstance(failure, StoreRefused)
    assert failure.code == code
    assert "its answer" not in failure.advice


@pytest.mark.parametrize("code", ["LOADING", "BUSY", "UNKILLABLE", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"])
def test_an_error_that_ends_by_itself_is_unavailable_and_named(code: str) -> None:
    failure = translated(ResponseError(f"{code} some text"), URL, "versions")
    assert isinstance(failure, StoreUnavailable)
    assert failure.reason.startswith(f"the server says {code}: ")


def test_a_server_that_loads_its_data_is_unavailable() -> None:
    failure = translated(BusyLoadingError("Redis is loading", status_code="LOADING"), URL, "versions")
    assert isinstance(failure, StoreUnavailable)
    assert "wait until it has them" in failure.reason


def test_an_unknown_answer_is_refused_with_the_servers_words() -> None:
    failure = translated(ResponseError("ERR DB index is out of range"), URL, "open")
    assert isinstance(failure, StoreRefused)
    assert "DB index is out of range" in failure.advice


def test_a_password_that_a_server_repeats_is_removed_from_the_error() -> None:
    answers = (ResponseError(f"ERR unknown command {SECRET}"), ConnectionError(f"lost: {SECRET}"))
    text = "".join(str(translated(answer, URL, "open", secrets=ADDRESS.secrets())) for answer in answers)
    assert SECRET not in text


def test_an_address_does_not_show_its_password() -> None:
    assert SECRET not in repr(ADDRESS)
    assert SECRET not in str(ADDRESS)
