"""A director that uses ring version 1 only: `python -m tests.e2e.ring_version_1 serve -c FILE`.

It has only the greeting of that version, since today's directors refuse it after the greeting.
"""

from __future__ import annotations

from director.core.protocol import messages

if __name__ == "__main__":
    messages.RING_VERSION = messages.OLDEST_RING_VERSION = 1

    from director.cli.main import main

    main()
