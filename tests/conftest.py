"""Fixtures and settings of all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.certificates import Authority
from tests.parallel import group_of, own_network, shorter

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        own_network()
        config.option.basetemp = shorter(config.option.basetemp)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        for item in items:
            if group := group_of(item):
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run as the director does: asyncio on uvloop."""
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Undo a test's changes to the standard `logging`."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))
