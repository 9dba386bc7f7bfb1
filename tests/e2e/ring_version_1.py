"""A director that speaks ring version 1 only: `python -m tests.e2e.ring_version_1 serve -c FILE`.

Of that version it has the greeting, which is all that it gets to say to directors of today.
"""

from __future__ import annotations

from director.core.protocol import messages

if __name__ == "__main__":
    messages.RING_VERSION = messages.OLDEST_RING_VERSION = 1

    from director.cli.main import main

    main()
