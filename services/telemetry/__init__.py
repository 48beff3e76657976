"""Metrics, health, logs and traces of a role.

`role_metrics` has the metrics that roles observe, `health` says whether the process works, and `endpoint` serves both
over HTTP. `services/runtime/installation_metrics.py` has the metrics that are read from the servers.
"""
