"""``python -m vagen.cli VERB``, as ``vagen VERB``."""

import sys

from vagen.cli import main

if __name__ == "__main__":
    sys.exit(main())
