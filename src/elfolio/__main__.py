"""__main__: `python -m elfolio`, the same as the command `elfolio`."""

import sys

from elfolio.cli import main

if __name__ == "__main__":
    sys.exit(main())
