"""`python -m gen3d`, which `torchrun` and `accelerate launch` start."""

import sys

from gen3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
