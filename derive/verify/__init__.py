"""Verification: the `reference`, the `regimes` it looks at, the `checks`, and how each kind of code is executed."""
