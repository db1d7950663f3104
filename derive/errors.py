"""The errors a user can meet. Each is one clear line: what was wrong, where, and what to do."""


class DeriveTripletError(Exception):
    """A failure of the tool's own work: a wrong step, a failed check, drift. The CLI exits with 1."""


class UsageError(DeriveTripletError):
    """The user asked for something that cannot be. The CLI exits with 2.

    The message is one line that can be printed, whatever of the user's own text is in it.
    """

    def __str__(self) -> str:
        one_line = " ".join(super().__str__().splitlines())
        return one_line.encode(errors="backslashreplace").decode()


class DefinitionError(UsageError):
    """A formula's text was refused; the message holds the position and the reason."""


class StepError(DeriveTripletError):
    """A step of a derivation is not an equality; the message names the step."""
