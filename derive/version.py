"""The version, in one place: packaging, generated headers and the CLI read it here."""

__version__ = "0.1.0"
