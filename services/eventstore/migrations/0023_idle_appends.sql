-- All others wait for an append. Where its process hangs in the middle of it, the server ends it: also behind a pooler,
-- where a session cannot have settings of its own. This one ends with the transaction.
CREATE OR REPLACE FUNCTION begin_append(OUT last_event_id bigint, OUT last_outcome_id bigint, OUT parking_version bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('idle_in_transaction_session_timeout', '5s', true);
    PERFORM pg_advisory_xact_lock(hashtextextended('order_events', 0));
    SELECT greatest(0, max(e.notification_id), (SELECT max(event_id) FROM splits))
    INTO last_event_id FROM order_events AS e;
    SELECT greatest(0, max(o.outcome_id), (SELECT max(s.outcome_id) FROM splits AS s))
    INTO last_outcome_id FROM outcomes AS o;
    SELECT version INTO parking_version FROM parking;
    PERFORM pg_notify('order_events', '');
END $$;
