"""``python -m derive_triplet`` is ``derive-triplet``."""

from .cli import main

main(prog_name="derive-triplet")
