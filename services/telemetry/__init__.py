"""What operators see of a role: metrics, health, logs, traces. It decides nothing, and nothing waits for it.

`measures` names every metric that roles report, `watch` those that are read from the servers, `endpoint` serves both
and the health, `logs` and `traces` speak for themselves.
"""
