"""The program ``moleflow COMMAND``, equally ``python -m moleflow COMMAND``."""

import sys

from moleflow.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
