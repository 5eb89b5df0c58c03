"""`python -m imagen_async` is the command `imagen-async`."""

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main())
