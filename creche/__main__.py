"""``python -m creche``."""

import sys

from .runtime.cli import main

sys.exit(main())
