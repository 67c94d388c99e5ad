"""`python -m lm` is the command `lm`."""

import sys

if __name__ == "__main__":
    try:
        from lm.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
