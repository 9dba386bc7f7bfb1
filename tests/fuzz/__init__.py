"""Random input for every parser, codec and socket, from seeds. A failure names its seed and smallest input.

`make test` runs each target with fixed seeds; `make fuzz MINUTES=10` runs new ones.
"""
