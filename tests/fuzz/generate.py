"""What a sender could write: record batches by the seed, from well-formed commands to bytes that are no records.

`catalogue` has each construct that is known to matter, once; `drawn` draws as many records as are wanted. Hypothesis
draws strange values, which dice put together: the same seed gives the same batches.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, cycle, product
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from services.judging.partitioner import partition_of
from tests.fuzz.wire import CODECS, CONTROL, TRANSACTIONAL, Headers, RawBatch, RawRecord
from tests.support.installation import PARTITIONS

_KIB = 1024
_LARGEST_COMMAND = 256 * _KIB
_LARGEST_REQUEST = 4 * _KIB * _KIB


@dataclass(frozen=True, repr=False)
class Garbage:
    """A batch to write, where to, and whether inside a transaction that is then committed or aborted."""

    name: str
    partition: int
    batch: RawBatch
    committed: bool | None = None
    """None: without a transaction."""

    @cached_property
    def bytes(self) -> bytes:
        return self.batch.encode()

    def transactional(self, producer_id: int, epoch: int) -> RawBatch:
        """The batch as the first one of a transaction on its partition."""
        attributes = self.batch.attributes | TRANSACTIONAL
        return replace(self.batch, attributes=attributes, producer=(producer_id, epoch, 0))

    def __repr__(self) -> str:
        shown = self.bytes.hex()
        more = f"... ({len(self.bytes):,} bytes)" if len(shown) > 20_000 else ""
        return f"{self.name}, partition {self.partition}, committed={self.committed}: {shown[:20_000]}{more}"


ORDERS: dict[int, list[str]] = {
    partition: [f"fuzz-{n}" for n in range(200) if partition_of(f"fuzz-{n}".encode(), PARTITIONS) == partition][:4]
    for partition in range(PARTITIONS)
}
"""By partition, orders that nobody but this sender writes about."""

# --- JSON as text, so that it can have what no encoder writes ---

Members = list[tuple[str, str]]
"""Of an object, in their order: a name may come twice. Values are JSON, or are meant not to be."""


def text_of(members: Members) -> bytes:
    return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in members) + "}").encode(
        "utf-8", "surrogatepass"
    )


_STRANGE = [
    "null", "true", "false", "0", "-0", "1", "-1", "1.0", "1e0", "1.5", "1e400", "-1e400", "1e-400", "9" * 30, "9" * 5000,
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "NaN", "Infinity", "-Infinity", "01", "+1", "0x1",
    '""', '" "', '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"😀"', '"\u202e\u200f"',
    '"\\u0085"', '"\x7f"', '"\t"', '"\ud800"', "\"'; DROP TABLE outcomes; --\"", '"%s %(key)s {0}"', '"\\\\x00"', '"é"',
    '"' + "x" * 3000 + '"', "[]", "{}", "[null]", "[1]", '{"a":{"a":{}}}', "[" * 500 + "]" * 500, "[" * 5000 + "]" * 5000,
    "[" * 2000, '{"a":' * 300 + "1" + "}" * 300, "'a'", "", "undefined", '"unfinished', '"\\x"', '"\\u12"', "1 2", "[1,]", "{,}",
    '{"actor":"a","actor":"b"}', '"2026-01-31T12:00:00Z"', '"9999-12-31T23:59:59.999999999+23:59"', '"0000-00-00T00:00:00Z"',
    '"-1"', '"1"', "48.0", "60", "61", "100", "101", "365", "366", "720", "721", '"gold-2"', '"a b"', '{"response_hours":2,"response_hours":3}',
]  # fmt: skip

_strange_values = st.one_of(
    st.text(max_size=20).map(json.dumps),
    st.text(st.characters(exclude_categories=()), max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(json.dumps),
    st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)).map(
        json.dumps
    ),
)

_FACTS: list[dict[str, Any]] = [
    {"client_id": "a", "freelancer_id": "b", "price": {"amount": 10000, "currency": "USD"}, "expected_delivery_at": day}
    for day in ("2027-01-31T12:00:00Z", "2020-01-31T12:00:00+02:00")
]
_TERMS: list[dict[str, Any] | None] = [
    None,
    {},
    {"response_hours": 1, "very_late_after_hours": 0, "longest_extension_days": 2, "largest_refund_percent": 0},
    {
        "response_hours": 720,
        "very_late_after_hours": 720,
        "longest_extension_days": 365,
        "largest_refund_percent": 100,
        "name": "a",
    },
]
_DATA: dict[str, list[dict[str, Any]]] = {
    "RegisterOrder": _FACTS,
    "RegisterOrder.v2": [facts | {"terms": terms} for facts in _FACTS for terms in _TERMS],
    "RecordDelivery": [{}],
    "RecordRevisionRequested": [{}],
    "RecordCompletion": [{}],
    "RecordRefundProcessed": [{"refund_id": "00000000-0000-0000-0000-000000000001"}],
    "OpenDispute": [
        {"actor": "a", "request": {"kind": "order_update", "message": "How is it going? 😀"}},
        {"actor": "b", "request": {"kind": "delivery_extension", "days": 3, "note": "The fonts are late."}},
        {"actor": "a", "request": {"kind": "cancellation", "comment": "Plans changed."}},
    ],
    "OfferPartialRefund": [
        {"actor": "b", "amount": {"amount": 1, "currency": "USD"}, "explanation": "One draft less.", "reason": "other"}
    ],
    "OfferPartialRefund.v2": [
        {"actor": "b", "percent": percent, "explanation": "One draft less.", "reason": "other"} for percent in (1, 61, 100)
    ],
    "Accept": [{"actor": "a", "dispute_id": "00000000-0000-0000-0000-000000000001"}],
    "Withdraw": [{"actor": "a", "dispute_id": "00000000-0000-0000-0000-000000000001"}],
    "ExpireDispute": [{"dispute_id": "00000000-0000-0000-0000-000000000001"}],
}  # fmt: skip
"""By the command's name, and its version if it is not the first."""
_TYPES = [*_DATA, "RegisterOrder", "RegisterOrder.v2", "RegisterOrder.v2", "OpenDispute", "OpenDispute"]


def command(order_id: str, number: int, name: str = "RegisterOrder", data: str | None = None) -> Members:
    """A command as it should be."""
    return [
        ("specversion", '"1.0"'),
        ("id", json.dumps(str(UUID(int=number)))),
        ("type", json.dumps(f"resolution.command.{name if '.' in name else name + '.v1'}")),
        ("source", '"/fuzz"'),
        ("subject", json.dumps(order_id)),
        ("data", json.dumps(_DATA[name][0]) if data is None else data),
    ]


_FIELDS = ["actor", "dispute_id", "price", "request", "amount", "percent", "terms", "x"]
_TERM_FIELDS = [
    "response_hours",
    "very_late_after_hours",
    "longest_extension_days",
    "largest_refund_percent",
    "name",
    "x",
]
_ATTRIBUTES = [
    "specversion", "id", "type", "source", "subject", "data", "time", "datacontenttype", "dataschema", "data_base64",
    "traceparent", "sequence", "causationid", "a\0b", "", "unknown", "\ud800",
]  # fmt: skip


# --- records ---

_HEADER_NAMES = [
    b"content-type", b"retry-of", b"traceparent", b"tracestate", b"ce_id", b"ce_type", b"ce_specversion", b"error", b"source-topic",
    b"source-partition", b"source-offset", b"source-timestamp", b"value-bytes", b"value-sha256", b"", b"\0", b"\xff\xfe",
    b"\xed\xa0\x80", "é".encode(), b"x" * 1000, b"a\nb", b"%s",
]  # fmt: skip
_TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_HEADER_VALUES = [
    None, b"", b"0", b"1", b"5", b"17", b"-1", b"9" * 18, b"9" * 19, b"9" * 100, b" 1", "٣".encode(), "²".encode(), b"1_0", b"\0",
    b"\xff", _TRACE, _TRACE.upper(), _TRACE + b"-extra", _TRACE[:-1], b"ff" + _TRACE[2:], b"00-" + b"0" * 32 + _TRACE[35:],
    _TRACE.replace(b"-", b"\0"), b"application/cloudevents+json", b"application/json", b"1.0", b"x" * 5000,
]  # fmt: skip

_KEYS = [None, b"", b"\0", b"\xff\xfe", b"o" * 64, b"o" * 65, b"order 1", "order-é".encode(), b"k" * 5000]
_PLAIN_VALUES = [None, b"", b"\0", b"{}", b"[]", b"null", b"17"]

_QUIRKS: list[dict[str, Any]] = [
    {"attributes": 0x80}, {"attributes": 0xFF}, {"attributes": 1}, {"width": 2}, {"width": 5}, {"width": 6}, {"null": -2},
    {"null": -(2**31)}, {"timestamp_delta": 2**62}, {"timestamp_delta": -(2**62)}, {"timestamp_delta": -1},
]  # fmt: skip
"""Strange, but a record."""

_LIES: list[dict[str, Any]] = [
    {"offset_delta": -1}, {"offset_delta": 0}, {"offset_delta": 7}, {"offset_delta": 2**31 - 1}, {"offset_delta": -(2**31)},
    {"length": 0}, {"length": 3}, {"length": 1000}, {"length": -1}, {"length": 2**31 - 1}, {"tail": b"x"}, {"key_length": 1000},
    {"key_length": 2**33 + 3}, {"key_length": -1}, {"value_length": 0}, {"value_length": 2**31 - 1}, {"header_count": -1},
    {"header_count": 1}, {"header_count": 3}, {"header_count": 2**31 - 1}, {"header_name_length": -1},
]  # fmt: skip
"""What makes it none, or puts it where it is not. Beside garbage only: it is no matter what a reader makes of it."""


_BATCH_QUIRKS: list[dict[str, Any]] = [
    {"attributes": 0x08}, {"attributes": CONTROL}, {"attributes": CONTROL | TRANSACTIONAL}, {"attributes": TRANSACTIONAL},
    {"attributes": 0x40}, {"attributes": 0x80}, {"attributes": 0x7F00}, {"attributes": -32768}, {"base_offset": 77},
    {"base_offset": -1}, {"leader_epoch": 9}, {"magic": 0}, {"magic": 1}, {"magic": 3}, {"first_timestamp": -1},
    {"first_timestamp": -(2**63)}, {"largest_timestamp": 2**63 - 1}, {"largest_timestamp": -1}, {"count": 0}, {"count": -1},
    {"count": 2**31 - 1}, {"last_offset_delta": 50}, {"last_offset_delta": -1}, {"length_added": 1}, {"length_added": -1},
    {"tail": b"\0"}, {"tail": b"x" * 100}, {"producer": (-1, 5, 3)}, {"producer": (-7, 0, 0)},
]  # fmt: skip


def drawn(by: int) -> Iterator[Garbage]:
    """Batches without end, by a seed."""
    sender = _Sender(by)
    while True:
        yield sender.batch()


def _pool(strategy: SearchStrategy[Any], by: int, count: int = 200) -> list[Any]:
    """What Hypothesis finds worth trying. Drawing all of a record from it takes 25 ms a record."""
    found: list[Any] = []

    @seed(by)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(one: Any) -> None:
        found.append(one)

    collect()
    return found


class _Sender:
    """Puts records together from what Hypothesis drew and from what is known to matter."""

    def __init__(self, by: int) -> None:
        self._dice = random.Random(by)
        self._values = _STRANGE + _pool(_strange_values, by)
        self._bytes = _pool(st.binary(max_size=40), by)
        self._names = _HEADER_NAMES + _pool(st.binary(max_size=6), by, 50)

    def batch(self) -> Garbage:
        dice = self._dice
        partition = dice.randrange(PARTITIONS)
        lies = self._once_in(12)
        record = self._lie if lies else lambda: self._record(partition)
        records = tuple(record() for _ in range(dice.randint(1, 9)))
        batch = RawBatch(records, dice.choice(list(CODECS)) if self._once_in(2) else "none")
        if self._once_in(20):
            batch = replace(batch, **dice.choice(_BATCH_QUIRKS))
        elif self._once_in(20):
            batch = replace(batch, producer=(dice.randrange(2**20, 2**40), dice.randint(-1, 5), dice.randint(-1, 50)))
        elif self._once_in(20):
            return Garbage("drawn", partition, batch, committed=self._once_in(2))
        return Garbage("drawn", partition, batch)

    def _once_in(self, times: int) -> bool:
        return self._dice.randrange(times) == 0

    def _lie(self) -> RawRecord:
        return replace(RawRecord(b"lie", b"garbage", self._headers()), **self._dice.choice(_LIES))

    def _record(self, partition: int) -> RawRecord:
        dice = self._dice
        quirk = dice.choice(_QUIRKS) if self._once_in(15) else {}
        if self._once_in(5):
            return RawRecord(dice.choice(_KEYS), dice.choice(_PLAIN_VALUES + self._bytes), self._headers(), **quirk)
        home = dice.randrange(PARTITIONS) if self._once_in(10) else partition
        order_id = dice.choice(ORDERS[home])
        key = dice.choice(_KEYS) if self._once_in(20) else order_id.encode()
        return RawRecord(key, self._command(order_id), self._headers(), **quirk)

    def _headers(self) -> Headers:
        dice = self._dice
        if not self._once_in(3):
            return ()
        values = _HEADER_VALUES + self._bytes
        return tuple((dice.choice(self._names), dice.choice(values)) for _ in range(dice.randint(1, 3)))

    def _command(self, order_id: str) -> bytes:
        dice = self._dice
        name = dice.choice(_TYPES)
        members = command(order_id, dice.getrandbits(128), name, self._data(name))
        for _ in range(dice.choice([0, 0, 1, 1, 1, 2])):
            members = self._changed(members, _ATTRIBUTES)
        return self._spoilt(text_of(members)) if self._once_in(8) else text_of(members)

    def _data(self, name: str) -> str:
        data = self._dice.choice(_DATA[name])
        if not self._once_in(3):
            return json.dumps(data)
        if data.get("terms") is not None and self._once_in(2):
            terms = self._object(data["terms"], _TERM_FIELDS)
            facts = {key: value for key, value in data.items() if key != "terms"}
            return json.dumps(facts)[:-1] + f',"terms":{terms}}}'
        return self._object(data, _FIELDS)

    def _object(self, data: dict[str, Any], names: Sequence[str]) -> str:
        """An object with one member changed."""
        members = [(key, json.dumps(value)) for key, value in data.items()]
        return text_of(self._changed(members, names)).decode("utf-8", "surrogatepass")

    def _changed(self, members: Members, names: Sequence[str]) -> Members:
        """One member replaced, doubled, taken away or added."""
        dice, place, members = self._dice, self._dice.randrange(len(members) + 1), list(members)
        if place == len(members):
            return [*members, (dice.choice(names), dice.choice(self._values))]
        doubled = dice.choice([members[place]] * self._once_in(2) or [None])
        changed = [(members[place][0], dice.choice(self._values))] * (not self._once_in(4))
        members[place : place + 1] = [one for one in (doubled, *changed) if one is not None]
        return members

    def _spoilt(self, value: bytes) -> bytes:
        dice, place = self._dice, self._dice.randrange(len(value))
        match dice.randrange(6):
            case 0:
                return value[:place]
            case 1:
                return b"\xef\xbb\xbf" + value
            case 2:
                return value.decode("utf-8", "replace").encode("utf-16")
            case 3:
                return value.ljust(dice.choice([_LARGEST_COMMAND - 1, _LARGEST_COMMAND, _LARGEST_COMMAND + 1]))
            case 4:
                return value[:place] + dice.choice(self._bytes) + value[place + 1 :]
        return value + value


# --- what is known to matter ---


def catalogue() -> Iterator[Garbage]:
    """Each construct once; beside a command, which has to be read where the batch can be."""
    partitions, numbers = cycle(range(PARTITIONS)), count(2**64)

    def alone(name: str, *records: RawRecord, codec: str = "none") -> Garbage:
        return Garbage(name, next(partitions), RawBatch(records, codec))

    def beside(name: str, record: RawRecord, codec: str = "none") -> Garbage:
        order_id = ORDERS[partition := next(partitions)][0]
        good = RawRecord(order_id.encode(), text_of(command(order_id, next(numbers))))
        return Garbage(name, partition, RawBatch((record, good), codec))

    for codec in CODECS:
        yield beside(f"codec {codec}", RawRecord(b"k", b"v" * 3000, ((b"a", b"b"),)), codec)
    for codec in ("none", "gzip"):
        for quirk in _QUIRKS:
            yield beside(f"{quirk}, {codec}", replace(RawRecord(b"k", b"v"), **quirk), codec)
        for lie in _LIES:
            record, other = replace(RawRecord(b"lie", b"garbage"), **lie), RawRecord(b"k", b"v")
            yield alone(f"{lie}, {codec}", record, codec=codec)
            yield alone(f"{lie} between two, {codec}", other, record, other, codec=codec)
        for header in product(_HEADER_NAMES, (None, b"1", _TRACE)):
            yield beside(f"header {header}, {codec}", RawRecord(b"k", b"v", (header,)), codec)
    # aiokafka's own decoder reads another key and value, and raises nothing.
    yield alone("attributes that shift all fields", RawRecord(b"", b"X", ((b"", b""),), attributes=0x80))
    yield from _headers_of_commands()
    yield from _transactions()
    yield from _sizes()


def flood() -> Garbage:
    """A batch of 60,000 records in a few hundred bytes."""
    return Garbage("60,000 records", 0, RawBatch((RawRecord(),) * 60_000, "gzip"))


def repeated(place: int, garbage: Garbage) -> Garbage:
    """The first record of a batch that came to an offset, again, as an operator's retry of it is published."""
    first = garbage.batch.records[0]
    again = replace(first, headers=(*first.headers, (b"retry-of", str(place).encode())))
    return Garbage(f"retry of {garbage.partition}/{place}", garbage.partition, RawBatch((again,)))


def _headers_of_commands() -> Iterator[Garbage]:
    """A valid command with each header; `retry-of` names dead letters of this very sender, too."""
    for place, (partition, orders) in enumerate(ORDERS.items()):
        key = orders[0].encode()
        value = text_of(command(orders[0], 2**65 + place))
        for header in [(b"retry-of", value) for value in _HEADER_VALUES] + [
            (b"traceparent", v) for v in _HEADER_VALUES
        ]:
            yield Garbage(f"command with header {header!r}", partition, RawBatch((RawRecord(key, value, (header,)),)))


def _transactions() -> Iterator[Garbage]:
    for partition, orders in ORDERS.items():
        for committed in (False, True):
            members = command(orders[1], 2**66 + committed)
            batch = RawBatch((RawRecord(orders[1].encode(), text_of(members)), RawRecord(b"k", b"garbage")))
            yield Garbage(f"transaction, committed={committed}", partition, batch, committed)


def _sizes() -> Iterator[Garbage]:
    """Around each limit: a command's, the broker's default, the broker's ours, and what a codec hides."""
    order_id = ORDERS[1][0]
    value = text_of(command(order_id, 2**67))
    limits = [
        _LARGEST_COMMAND - 1, _LARGEST_COMMAND, _LARGEST_COMMAND + 1, 1_000_000, 1_048_400, 1_048_576, 1_048_588,
        2 * _KIB * _KIB, 4_000_000, 4_194_180, 4_194_200, _LARGEST_REQUEST - 80, _LARGEST_REQUEST - 79, _LARGEST_REQUEST,
    ]  # fmt: skip
    for size in limits:
        yield Garbage(f"value of {size:,}", 1, RawBatch((RawRecord(order_id.encode(), value.ljust(size)),)))
        yield Garbage(
            f"value of {size:,}, gzip", 1, RawBatch((RawRecord(order_id.encode(), value.ljust(size)),), "gzip")
        )
    for size in (70_000, 1_000_000, 4_000_000):
        yield Garbage(f"key of {size:,}", 2, RawBatch((RawRecord(b"k" * size, b"v"),)))
        yield Garbage(f"header value of {size:,}", 2, RawBatch((RawRecord(b"k", b"v", ((b"h", b"x" * size),)),)))
        yield Garbage(f"header name of {size:,}", 2, RawBatch((RawRecord(b"k", b"v", ((b"h" * size, b"x"),)),)))
    yield Garbage("100,000 headers", 2, RawBatch((RawRecord(b"k", b"v", ((b"h", b"x"),) * 100_000),)))
    for codec in ("gzip", "zstd", "lz4", "snappy, xerial"):
        yield Garbage(f"20 MB of spaces, {codec}", 3, RawBatch((RawRecord(b"k", b" " * 20_000_000),), codec))
    for codec in ("gzip", "zstd"):
        yield Garbage(f"120 MB, {codec}", 3, RawBatch((RawRecord(b"k", bytes(120_000_000)),), codec))
    many = (RawRecord(b"k", b" " * 1_000_000),) * 30
    yield Garbage("30 times 1 MB, gzip", 3, RawBatch(many, "gzip"))
