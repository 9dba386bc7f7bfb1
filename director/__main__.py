"""`python -m director` is the command `director`."""

from director.cli.main import main

main()
