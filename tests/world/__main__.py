"""`python -m tests.world --seeds 1..10000`: a whole world for each seed, with accidents, and what must be true of it.

A world that breaks a truth is printed with the fewest accidents that still break it, and with the end of its trace.
"""

from __future__ import annotations

import gc
import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":
    # Sets of texts have another order in each process else.
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.world", *sys.argv[1:]])

from . import disk, stage

stage.set_up()
disk.set_up()

from .command import main  # noqa: E402 - loads the package, which is to find all of that in place

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    sys.exit(main(sys.argv[1:]))
