"""Formats what was measured for people."""

from rich.console import Console
from rich.table import Table

from bench import soak
from bench.bars import bars
from bench.rounds import Result

Row = tuple[str, str, str]
"""A measure, its figure, and its target or ""."""


def show(result: Result) -> None:
    """Prints the bars, and then all figures."""
    title = f"{result['commands']:,} commands, {result['cores']} cores"
    reached = Table("bar", "median (lowest to highest)", "", "", title=title)
    for bar in bars(result):
        reached.add_row(*bar.row())
    sheet = Table("measure", "measured", "target")
    for row in table(result):
        sheet.add_row(*row)
    for part in (reached, sheet) if reached.rows else (sheet,):
        Console().print(part)


def table(result: Result) -> list[Row]:
    """Formats a measurement for people: its name, its figure and its target."""
    rows: list[Row] = []
    if backlog := result.get("backlog"):
        rows += [
            ("backlog, one commands process", f"{backlog['one']:,.0f} commands/s", ""),
            ("  beside the plain library", f"{backlog['x_library']:.1f} x of {backlog['library']:,.0f}/s", ""),
            ("  beside the raw ceiling", f"{backlog['x_ceiling']:.2f} x of {backlog['ceiling']:,.0f}/s", ""),
            ("two commands processes", f"{backlog['x_two']:.2f} x of one", "1.5 x"),
            ("  cores in use, with one and two", f"{backlog['busy_one']:.0%}, {backlog['busy_two']:.0%}", ""),
        ]
    if shards := result.get("shards"):
        rows.append(("two shards, a commands process each", f"{shards['x_one']:.2f} x of one with one", ""))
        rows.append(("  beside one shard with two", f"{shards['x_two']:.2f} x of {shards['two']:,.0f}/s", ""))
    rows += _costs(result.get("costs"))
    for stage, spent in result.get("stages", {}).get("per_command_us", {}).items():
        rows.append((f"  {stage}, alone", f"{spent['wall']:.1f} us, {spent['cpu']:.1f} of them computing", ""))
    if relay := result.get("relay"):
        rows.append(("relay", f"{relay['per_second']:,.0f} commands/s, {relay['x']:.2f} x of commands", "1 x"))
    rows += _waits(result)
    if due := result.get("deadlines"):
        rows.append((f"{due['disputes']:,} deadlines at once, all settled", f"{due['seconds']:.1f} s", ""))
    rows += _of_the_read_side(result)
    if long := result.get("long_orders"):
        rows.append(("per command, 1,000 events in an order against 10", f"{long['x']:.2f} x", "1.3 x"))
    rows += _snapshots(result.get("snapshots", {}))
    if large := result.get("large_store"):
        rows.append((f"per command, {large['events']:,} events stored against 1 %", f"{large['x']:.2f} x", "1.3 x"))
    rows += soak.rows(result.get("soak"))
    peaks = ", ".join(f"{role} {megabytes:.0f}" for role, megabytes in result["memory_mb"].items())
    return [*rows, ("most memory, MB", peaks, "300")]


def _waits(result: Result) -> list[Row]:
    """Formats what somebody waits for."""
    rows: list[Row] = []
    if latency := result.get("latency"):
        figures = f"{latency['p50_ms']:.1f} / {latency['p99_ms']:.1f} ms"
        rows.append(("produce to outcome at 100/s, p50 / p99", figures, "8 / 25 ms"))
        spent = ", ".join(f"{name} {us:,.0f}" for name, us in latency["cpu_us"].items())
        rows.append(("  a command's processor time", f"{sum(latency['cpu_us'].values()):,.0f} us: {spent}", ""))
    if posted := result.get("posts"):
        figures = f"{posted['post']['p50_ms']:.1f} / {posted['post']['p99_ms']:.1f} ms"
        rows.append(("a POST that waits for the outcome, at 50/s, p50 / p99", figures, ""))
        figures = f"{posted['x']:.2f} x of {posted['kafka']['p50_ms']:.1f} ms (p50)"
        rows.append(("  beside produce to outcome", figures, ""))
    if late := result.get("lateness"):
        figures = f"{late['p50_ms']:.0f} / {late['p99_ms']:.0f} ms"
        rows.append(("AutoAccepted after the deadline, p50 / p99", figures, ""))
    return rows + _peer(result)


def _costs(costs: Result | None) -> list[Row]:
    if costs is None:
        return []
    rows = [
        (f"a command's processor time, {role}", ", ".join(f"{name} {us:.0f}" for name, us in spent.items()) + " us", "")
        for role, spent in costs["cpu_us"].items()
    ]
    for what, name in (("tables", "table_bytes"), ("topics", "topic_bytes"), ("WAL", "wal_bytes")):
        sizes = ", ".join(f"{part} {size:,.0f}" for part, size in costs[name].items())
        rows.append((f"a command's bytes, {what}", sizes, ""))
    for large in costs["scattered"]:
        what = f"a command's WAL, scattered order ids, {large['events']:,} events stored"
        rows.append((what, f"{large['wal_bytes']:,.0f} bytes", ""))
    return rows


def _snapshots(loaded: Result) -> list[Row]:
    rows = []
    for events, took in loaded.items():
        figures = f"{took['x']:.1f} x: {took['snapshot']:,.0f} us, replayed {took['replay']:,.0f} us"
        rows.append((f"loading an order of {events} events from a snapshot", figures, ""))
        rows.append(("  writing one", f"{took['write']:,.0f} us", ""))
    return rows


def _of_the_read_side(result: Result) -> list[Row]:
    rows: list[Row] = []
    if rebuilt := result.get("rebuild"):
        rows.append(("rebuilding the order page", f"{rebuilt['per_second']:,.0f} events/s", "20,000"))
        rows.append(("  beside the library's runner", f"{rebuilt['x']:.0f} x of {rebuilt['library']:,.0f}/s", "8 x"))
    if verified := result.get("verify"):
        rows.append(("verifying history and read models", f"{verified['per_second']:,.0f} events/s", ""))
        rows.append(("  history alone", f"{verified['history_per_second']:,.0f} events/s", ""))
    for name, what, bar in (
        ("live", "an event into the order page, p50 / p99", "50 ms"),
        ("pages", "200 page views a second, p50 / p99", "50 ms"),
    ):
        if took := result.get(name):
            rows.append((what, f"{took['p50_ms']:.1f} / {took['p99_ms']:.1f} ms", bar))
    return rows


def _peer(result: Result) -> list[Row]:
    for name in ("kafka_streams", "beside_streams"):
        if skipped := result.get(name, {}).get("skipped"):
            return [("Kafka Streams", skipped, "")]
    rows: list[Row] = []
    if peer := result.get("kafka_streams"):
        figures = f"{peer['per_second']:,.0f}/s; the service {peer['x']:.2f} x of it"
        rows.append(("Kafka Streams, one thread, a long backlog", figures, ""))
    for rate, beside in result.get("beside_streams", {}).items():
        taken = [f"{beside[who]['p50_ms']:.1f} / {beside[who]['p99_ms']:.1f}" for who in ("service", "peer")]
        rows.append((f"produce to outcome at {rate}/s, service and Kafka Streams", ", ".join(taken) + " ms", ""))
    return rows
