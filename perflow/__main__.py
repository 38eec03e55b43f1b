"""``python -m perflow`` is the command line."""

from perflow.cli import main

main()
