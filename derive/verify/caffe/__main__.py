"""Builds Caffe into the user's cache, or says what keeps it from that."""

from __future__ import annotations

import sys

from ...errors import UsageError
from .build import build

if __name__ == "__main__":
    try:
        print(build().root)
    except UsageError as error:
        sys.exit(f"Error: {error}")
