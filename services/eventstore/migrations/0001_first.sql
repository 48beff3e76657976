-- The event store. Columns are those of the eventsourcing library's recorder; notification_id is given under the
-- appenders' lock, so that it has no gap and follows the order of the commits.
CREATE TABLE order_events (
    originator_id      text   NOT NULL,
    originator_version bigint NOT NULL,
    topic              text   NOT NULL,
    state              bytea  NOT NULL,
    notification_id    bigint NOT NULL,
    PRIMARY KEY (originator_id, originator_version)
);
CREATE UNIQUE INDEX order_events_notification_id_idx ON order_events (notification_id);

-- One row for each record of the commands topic: what became of it, and the message that says so. It is the memory of
-- command ids (kind accepted or rejected: the first use of the id), the outbox of outcomes and dead letters, and the
-- proof that no record was lost.
CREATE TABLE outcomes (
    outcome_id    bigint  NOT NULL PRIMARY KEY,
    partition     integer NOT NULL,
    record_offset bigint  NOT NULL,
    kind          text    NOT NULL CHECK (kind IN ('accepted', 'rejected', 'repeated', 'reused', 'dead')),
    order_id      text    NOT NULL,  -- empty for a dead letter
    command_id    text    NOT NULL,  -- empty for a dead letter
    digest        bytea   NOT NULL,  -- of the command's name and data; empty for a dead letter
    source        text    NOT NULL,  -- who sent it
    last_event_id bigint  NOT NULL,  -- notification_id of the last event stored when this was decided
    message       bytea,             -- to publish: the outcome's envelope, or the dead record's value as it was
    key           bytea,             -- the dead record's key
    headers       bytea              -- and its headers with ours, as a JSON list of [name, base64 of the value]
);
CREATE UNIQUE INDEX outcomes_first_use_idx ON outcomes (order_id, command_id) WHERE kind IN ('accepted', 'rejected');

-- How far each consumer has read each partition of its topic. Moved by compare-and-swap only.
CREATE TABLE positions (
    consumer    text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (consumer, partition)
);

-- The timer's memory: disputes that nobody has settled yet.
CREATE TABLE deadlines (
    dispute_id text        NOT NULL,
    order_id   text        NOT NULL,
    due_at     timestamptz NOT NULL,  -- business time
    attempts   integer     NOT NULL DEFAULT 0,
    ask_at     timestamptz NOT NULL,  -- real time of the next ExpireDispute
    PRIMARY KEY (order_id, dispute_id)
);
CREATE INDEX deadlines_ask_at_idx ON deadlines (ask_at);

-- When business time was real time (RESOLUTION_TIME_ORIGIN where it is not given). One row.
CREATE TABLE clock (
    only_row boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    origin   timestamptz NOT NULL
);

-- Moves positions by compare-and-swap. Fails with SQLSTATE RC001 if another process has moved one meanwhile.
CREATE FUNCTION advance_positions(who text, partitions integer[], expected bigint[], next bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE positions AS p SET next_offset = v.next
    FROM unnest(partitions, expected, next) AS v (partition, expected, next)
    WHERE p.consumer = who AND p.partition = v.partition AND p.next_offset = v.expected;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(partitions) THEN
        RAISE EXCEPTION 'another process has read on from a position of %', who USING ERRCODE = 'RC001';
    END IF;
END $$;

-- Opens an append: one appender at a time from here to its commit, so that numbers follow the order of the commits and
-- a reader that follows them passes over nothing. An advisory lock, because a lock of the table would wait for
-- autovacuum's ANALYZE. Wakes the readers when it commits.
CREATE FUNCTION begin_append(OUT last_event_id bigint, OUT last_outcome_id bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('order_events', 0));
    SELECT coalesce(max(notification_id), 0) INTO last_event_id FROM order_events;
    SELECT coalesce(max(outcome_id), 0) INTO last_outcome_id FROM outcomes;
    PERFORM pg_notify('order_events', '');
END $$;
