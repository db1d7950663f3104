"""One file per target, found through `registry`; `base` says what a target is."""
