"""How far each consumer has read each partition."""

import asyncio

import psycopg


class StoredPositions:
    """The positions of one consumer, by name (`commands`, `timer`)."""

    def __init__(self, database_url: str, consumer: str) -> None:
        self._url = database_url
        self._consumer = consumer

    async def positions(self, beginnings: dict[int, int]) -> dict[int, int]:
        """The next offset of each partition asked for; one never read before starts at its beginning.

        Raises psycopg.Error.
        """
        return await asyncio.to_thread(self._positions, beginnings)

    def _positions(self, beginnings: dict[int, int]) -> dict[int, int]:
        partitions = list(beginnings)
        with psycopg.connect(self._url) as connection:
            connection.execute(
                "INSERT INTO positions SELECT %s, * FROM unnest(%s::int[], %s::bigint[]) ON CONFLICT DO NOTHING",
                (self._consumer, partitions, list(beginnings.values())),
            )
            rows = connection.execute(
                "SELECT partition, next_offset FROM positions WHERE consumer = %s AND partition = ANY(%s)",
                (self._consumer, partitions),
            )
            return dict(rows.fetchall())
