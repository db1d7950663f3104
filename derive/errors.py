"""The errors a user can meet. Each is one clear line: what was wrong, where, and what to do."""


class DeriveTripletError(Exception):
    """A failure of the tool's own work: a wrong step, a failed check, drift. The CLI exits with 1."""


class UsageError(DeriveTripletError):
    """The user asked for something that cannot be. The CLI exits with 2."""


class DefinitionError(UsageError):
    """A formula's text was refused; the message holds the position and the reason."""


class StepError(DeriveTripletError):
    """A step of a derivation is not an equality; the message names the step."""
