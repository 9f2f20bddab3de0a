"""`python -m bifrost` is `bifrost`."""

from bifrost.cli import main

main()
