"""Lists in pages, put together from several databases."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from projections.framework.paging import Cursor, Part, merged

T = datetime(2026, 3, 2, 9, tzinfo=UTC)
_cursors = st.builds(
    Cursor,
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z"),
)


@given(_cursors)
def test_a_cursor_reads_as_it_was_written(cursor):
    assert Cursor.parse(str(cursor)) == cursor


def _part(lines: list[Cursor], after: Cursor | None, size: int) -> Part:
    """What a database with these lines, the newest first, has of a page."""
    later = [line for line in lines if after is None or line < after]
    return Part([(line, {"id": line.order_id}) for line in later[: size + 1]], len(lines), len(lines) - len(later))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=20), st.integers(1, 7))
def test_the_pages_of_a_list_have_each_line_once_in_order(places, size):
    shards: list[list[Cursor]] = [[], [], []]
    for number, (minutes, shard) in enumerate(places):
        shards[shard].append(Cursor(T + timedelta(minutes=minutes), f"order-{number:02}"))
    for shard in shards:
        shard.sort(reverse=True)
    seen, after = [], None
    while True:
        page = merged([_part(shard, after, size) for shard in shards], size, newest_first=True)
        assert (page.total, page.earlier) == (len(places), len(seen))
        seen += [line["id"] for line in page.lines]
        if page.next is None:
            break
        after = Cursor.parse(page.next)
    assert seen == [line.order_id for line in sorted((line for shard in shards for line in shard), reverse=True)]
