-- Commands on which our own code failed, and the later commands of their orders: kept in order until an operator
-- retries or discards them. Business times stay those of the records.
CREATE TABLE parked_commands (
    partition     integer     NOT NULL,
    record_offset bigint      NOT NULL,
    order_id      text        NOT NULL,
    command_id    text        NOT NULL,  -- empty where the failure was to read it
    record_time   bigint      NOT NULL,  -- LogAppendTime, milliseconds since 1970
    key           bytea,
    value         bytea,
    headers       bytea       NOT NULL,  -- as a JSON list of [name, base64 of the value]
    why           text        NOT NULL,  -- where our code failed; empty for a command that waits behind such a one
    parked_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, record_offset)
);
CREATE INDEX parked_commands_order_idx ON parked_commands (order_id, record_offset);

-- Changes whenever an order is parked or set free, under the appenders' lock: whoever judges knows which orders are
-- parked as of a version, and appends nothing when that has changed meanwhile. One row.
CREATE TABLE parking (
    only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    version  bigint  NOT NULL
);
INSERT INTO parking (version) VALUES (0);

-- It is there again at once; a role of the first release has to be started again.
-- squawk-ignore ban-drop-function
DROP FUNCTION begin_append();
CREATE FUNCTION begin_append(OUT last_event_id bigint, OUT last_outcome_id bigint, OUT parking_version bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('order_events', 0));
    SELECT coalesce(max(notification_id), 0) INTO last_event_id FROM order_events;
    SELECT coalesce(max(outcome_id), 0) INTO last_outcome_id FROM outcomes;
    SELECT version INTO parking_version FROM parking;
    PERFORM pg_notify('order_events', '');
END $$;
