"""The command line: one file per verb, which parses, calls the API and prints."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the words of the command line and leave with the exit code, also while still loading."""
    try:
        from trueup.cli import session

        session.main()
    except KeyboardInterrupt:
        sys.exit(130)
