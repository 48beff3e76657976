"""The http role: an API for reading and for sending commands, and the pages for parties and operators."""
