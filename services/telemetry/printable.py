"""Other people's text, made fit for a terminal and for a log."""


def printable(text: object) -> str:
    """The text in one line. What a terminal would obey, hide or reorder is written as an escape, such as `\\x1b`."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
