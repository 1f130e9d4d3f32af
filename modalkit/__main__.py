"""`python -m modalkit`: the command line."""

from modalkit.cli.app import main

main()
