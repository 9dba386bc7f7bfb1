from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.web.service import Service, served


@pytest.fixture(scope="session")
def shared_service() -> Iterator[Service]:
    with served() as service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Service:
    shared_service.start_over()
    return shared_service
