"""Errors that a user can mend: one line that names the option, or the file and line, and says what to do.

The command line prints the message alone and exits with status 2; a program that uses the package sees an ordinary exception.
"""


class UserError(Exception):
    """Something the user can put right; the message says what, where and how. Never shown as a traceback."""


class ConfigError(UserError, ValueError):
    """An option has an impossible value, or two options contradict each other."""


class DataError(UserError):
    """An input file or a model folder is missing, malformed or incomplete."""


class EngineError(UserError):
    """The engine has ended, or did not answer in time."""


class EngineLost(EngineError):
    """The same, of an engine that may be started again by its ``restart``."""


class StaleWeightsError(UserError):
    """The engine's log-probabilities are not those of the current policy."""


class NonFiniteLossError(UserError):
    """A loss is NaN or infinite; raised before the weights are touched."""


class SaveError(UserError):
    """A checkpoint could not be written and the run was told to stop then."""
