"""Makes other people's text safe for a terminal and for a log."""


def printable(text: object) -> str:
    """Returns the text in one line. Escapes characters that a terminal would obey, hide or reorder, as in `\\x1b`."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
