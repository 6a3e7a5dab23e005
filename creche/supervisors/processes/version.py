"""What both processes must agree on."""

from __future__ import annotations

import sys

# Of what they say to each other: raise it with every change of a frame. An upgrade may replace the package under a
# program that runs; its next process would be another version.
PROTOCOL = 2
VERSION = f"{PROTOCOL}/{sys.version_info.major}.{sys.version_info.minor}"
