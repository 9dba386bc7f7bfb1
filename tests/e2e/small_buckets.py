"""A director that splits buckets of more than USERS: `python -m tests.e2e.small_buckets USERS serve -c FILE`.

So a test needs a few thousand users for what takes millions otherwise.
"""

from __future__ import annotations

import sys

from director.core.placement.users import RECORD
from director.stored import buckettree

if __name__ == "__main__":
    buckettree.USERS_SPLIT_ABOVE = int(sys.argv.pop(1)) * RECORD.size  # type: ignore[misc]

    from director.cli.main import main

    main()
