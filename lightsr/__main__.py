"""`python -m lightsr` is `lightsr`."""

import sys

from .cli import main

sys.exit(main())
