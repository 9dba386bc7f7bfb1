"""python -m tests.e2e.program_file FILE … : a director whose program is what stands in FILE when it is run.

So a test can put another program in its place. FILE ends with `main()` of the director's, usually.
"""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
