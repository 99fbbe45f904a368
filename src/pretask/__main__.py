"""`python -m pretask`."""

from pretask.cli import main

main()
