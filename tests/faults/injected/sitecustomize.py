"""Python imports this at the start of each process that has its folder in PYTHONPATH: a role that a test makes fail."""

from tests.faults.clients import install

install()
