"""The exception for what a user can get wrong, and its one kind that a caller may handle."""


class InputError(ValueError):
    """A file, flag, config or checkpoint that cannot be used.

    The message is one line: what is wrong, where, and how to mend it. The command `lm` prints it and exits
    with code 2.
    """


class NotByteLevel(InputError):
    """A `tokenizer.json` of another kind, such as SentencePiece. The model that it belongs to can take token ids."""
