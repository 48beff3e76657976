"""`python -m services.embedded`: downloads and prepares what the embedded servers need before their first start."""

import sys

from . import ServerError
from .kafka import prepare

if __name__ == "__main__":
    try:
        prepare(lambda text: print(text, file=sys.stderr))
    except ServerError as error:
        sys.exit(f"resolution: {error}")
