"""`python -m edgekiln`."""

from edgekiln.cli import main

main()
