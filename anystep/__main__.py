"""`python -m anystep` is `anystep`."""

import sys

from anystep.cli import main

sys.exit(main())
