"""`python -m autopart`: the command line."""

import sys

from autopart.cli import main

sys.exit(main())
