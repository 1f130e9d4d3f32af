"""`python -m modalkit`: the command line."""

from modalkit.cli import main

main()
