"""A director that retries a failing start without a pause: `python -m tests.e2e.quick_starts serve -c
FILE`."""

from __future__ import annotations

from director.service.lifecycle import startattempt

if __name__ == "__main__":
    startattempt.RETRY_EVERY = 0.2

    from director.cli.main import main

    main()
