"""`python -m jaxdeconv`: see `python -m jaxdeconv --help`. All of it is in _command.py."""

import sys

from jaxdeconv._command import main

if __name__ == "__main__":
    sys.exit(main())
