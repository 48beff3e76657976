"""The failures that a person can mend."""


class Failure(Exception):
    """Has a text that says what happened and what to do, in a sentence or two. The command line prints no more."""


class Misuse(Failure):
    """What was asked for is wrong: a setting, an argument or a file."""
