"""`python -m fastsmtp` is the `fastsmtp` command."""

import sys

from fastsmtp.gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
