"""The one exception for what a user can get wrong."""


class InputError(ValueError):
    """A file, flag, config or checkpoint that cannot be used.

    The message is one line: what is wrong, where, and how to mend it. The command `lm` prints it and exits
    with code 2.
    """
