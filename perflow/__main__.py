"""``python -m perflow`` is the command line."""

import sys

try:
    from perflow.cli import main

    main()
except KeyboardInterrupt:  # while it was still being imported
    sys.exit("perflow: stopped; the same command goes on from here")
