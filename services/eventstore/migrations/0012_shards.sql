-- Which of the installation's databases this is: it has the partitions whose number mod `count` is `number`. A process
-- that is started with other databases, or in another order, refuses. One row.
CREATE TABLE shard (
    only_row   boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    number     integer NOT NULL DEFAULT 0,
    count      integer NOT NULL DEFAULT 1,
    partitions integer,  -- of each topic; null where one database has everything
    CHECK (number >= 0 AND number < count)
);
INSERT INTO shard DEFAULT VALUES;

-- When this database was split off one that had more of the orders: how many databases there were before, and the last
-- numbers that were given by then. Up to there numbers are missing, for their rows are in the other shards. They are not
-- given again, for they have been published.
CREATE TABLE splits (
    count           integer NOT NULL PRIMARY KEY,
    event_id        bigint  NOT NULL,
    outcome_id      bigint  NOT NULL,
    notification_id bigint  NOT NULL
);

CREATE OR REPLACE FUNCTION begin_append(OUT last_event_id bigint, OUT last_outcome_id bigint, OUT parking_version bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('order_events', 0));
    SELECT greatest(0, max(e.notification_id), (SELECT max(event_id) FROM splits))
    INTO last_event_id FROM order_events AS e;
    SELECT greatest(0, max(o.outcome_id), (SELECT max(s.outcome_id) FROM splits AS s))
    INTO last_outcome_id FROM outcomes AS o;
    SELECT version INTO parking_version FROM parking;
    PERFORM pg_notify('order_events', '');
END $$;
