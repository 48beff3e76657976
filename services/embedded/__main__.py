"""`python -m services.embedded`: downloads ahead of time what the embedded servers need."""

import sys

from . import ServerError
from .jars import fetch

if __name__ == "__main__":
    try:
        fetch(lambda text: print(text, file=sys.stderr))
    except ServerError as error:
        sys.exit(f"resolution: {error}")
