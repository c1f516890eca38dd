"""`python -m learnforge` is the command `learnforge`."""

from learnforge.cli import main

main()
