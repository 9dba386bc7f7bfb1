"""`python -m tests.attacks.limited DESCRIPTORS serve ...`: the director with a low limit of descriptors."""

from __future__ import annotations

import resource
import sys

if __name__ == "__main__":
    descriptors = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    from director.cli.main import main

    main()
