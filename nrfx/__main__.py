"""`python -m nrfx` is `nrfx`."""

import sys

from nrfx.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
