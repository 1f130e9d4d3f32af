"""`python -m modalkit` runs the command line."""

from modalkit.cli import main

if __name__ == "__main__":
    main()
