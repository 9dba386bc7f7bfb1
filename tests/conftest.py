"""What every test gets."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run as the daemon does: asyncio on uvloop."""
    return ("asyncio", {"use_uvloop": True})
