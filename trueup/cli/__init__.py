"""The command line: one file per verb, which parses, calls the API and prints."""

from trueup.cli.session import main as main
from trueup.cli.session import run_words as run_words
