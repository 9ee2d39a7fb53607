"""The errors clbench raises on purpose: each message says what, which value and what to do."""


class ClbenchError(Exception):
    """Base of every error that clbench raises on purpose."""


class UsageError(ClbenchError):
    """Something the user asked for cannot be done: raised before any training (exit code 2)."""


class DataError(UsageError):
    """A data set is missing or damaged."""


class DivergedError(ClbenchError):
    """The training loss became NaN or infinite: the run fails and its record says where."""
