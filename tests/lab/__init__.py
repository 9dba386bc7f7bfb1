"""The lab, broken on purpose and judged by its backends' own logs: `python -m tests.lab`."""
