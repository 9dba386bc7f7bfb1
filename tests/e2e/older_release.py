"""A director as the release before schema 2: `python -m tests.e2e.older_release serve -c FILE`.

It knows only the first layout of the store, and its leases do not state this. It uses the present ring
version, because a director with another one is refused (`ring_version_1`).
"""

from __future__ import annotations

import msgspec

from state import base, migrate


def forget() -> None:
    """Make this process the older release. Call it before anything else of the director is imported."""
    all_steps = migrate.redis_steps
    migrate.redis_steps = lambda: all_steps()[:1]

    from state.redis import RedisStore

    renew = RedisStore.renew

    async def renew_without_a_word(store: RedisStore, lease: base.Lease, ttl: float) -> None:
        await renew(store, msgspec.structs.replace(lease, info={}), ttl)

    RedisStore.renew = renew_without_a_word  # type: ignore[method-assign]


if __name__ == "__main__":
    forget()

    from director.cli.main import main

    main()
