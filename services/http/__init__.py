"""The http role: a read API, commands over HTTP, and the pages that the parties and operators look at."""
