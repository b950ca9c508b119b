"""What a person must change before a command can run: one sentence on stderr, exit code 2."""


class Problem(Exception):
    """The text is the sentence."""
