"""The HTTP API of the director.

This module is imported fast. The framework takes about 0.4 s to import, which would delay a restarting
director: `run_api` imports it in a worker thread, while logins are answered already.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from director.web.offer import Offer

if TYPE_CHECKING:
    from litestar import Litestar

    from director.service.operations.operations import Operations
    from director.web.problems import Bug
    from director.web.server import WebListener


__all__ = ["Offer", "load", "run_api"]


def load() -> None:
    """Import all that the API needs. Raises ImportError."""
    import prometheus_client  # noqa: F401  # the first scrape would import it on the loop

    import director.web.api
    import director.web.server  # noqa: F401


_building = threading.Lock()
"""One application at a time: two threads that import the framework at once find it half imported."""


async def run_api(
    operations: Operations,
    listener: WebListener,
    *,
    token: Callable[[], str | None],
    trusted: bool,
    bug: Bug,
    offer: Offer | None = None,
    started: anyio.Event | None = None,
) -> None:
    """Answer API requests of a listener until cancelled; the first ones wait in the backlog.

    token, trusted, bug, offer: as in `create_app`. started, and what happens when cancelled: as in `serve`.
    """

    def build() -> Litestar:
        with _building:
            load()
            from director.web.api import create_app

            # Its schema is built here, too: the first request for it would do so on the loop.
            return create_app(operations, token=token, trusted=trusted, bug=bug, offer=offer)

    app = await anyio.to_thread.run_sync(build)
    gc.freeze()  # the framework stays: collections of garbage need not look at it each time
    from director.web.server import serve

    await serve(app, listener, started=started)
