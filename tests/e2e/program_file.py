"""python -m tests.e2e.program_file FILE … : a director whose program is the content of FILE when it is run.

So a test can replace the program. FILE usually ends with the director's `main()`.
"""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
