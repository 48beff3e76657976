"""`resolution migrate`: brings the database's schema and the topics up to date."""

import json

from services.runtime.installation import installation, prepare
from services.settings import Settings

from .options import AsJson
from .terminal import say


def migrate(as_json: AsJson = False) -> None:
    """Bring the database's schema and the topics up to date, before the roles start.

    It does no harm to run this again, or twice at the same time.
    """
    with installation(Settings.from_environment()) as settings:
        ran = prepare(settings)
    if as_json:
        say(json.dumps({"ran": ran}))
    else:
        say(*(f"ran {name}" for name in ran), "Schema and topics are up to date.")
