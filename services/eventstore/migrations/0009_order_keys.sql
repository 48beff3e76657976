-- The keys that texts are sealed with: one for each order at a time, its next number after an erasure. Without its key
-- a text cannot be read; the events themselves never change.
CREATE TABLE order_keys (
    order_id  text    NOT NULL,
    number    integer NOT NULL,
    master    text    NOT NULL,  -- the id of the master key that wraps it; empty where there was none
    wrapped   bytea,             -- NULL once it is erased
    erased_at timestamptz,
    PRIMARY KEY (order_id, number)
);

-- The ids of master keys that wrap keys here, so that a role without one of them stops before it reads.
CREATE TABLE master_keys (
    master text PRIMARY KEY
);

-- What the events' keys do not cover: texts of events from before there were keys, and dead letters that an order's
-- key names. Does nothing to an order that no event says is erased, so that it may run with its owner's rights for
-- roles that can change no event. A quote inside of a JSON string has a backslash before it, so that the expressions
-- find members only.
CREATE FUNCTION erase_plain_texts(order_ids text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    WITH erased AS (
        SELECT originator_id AS order_id, max(originator_version) AS version FROM order_events
        WHERE originator_id = ANY(order_ids) AND topic = 'OrderTextsErased' GROUP BY originator_id
    ), letters AS (
        UPDATE outcomes SET message = NULL FROM erased
        WHERE kind = 'dead' AND key = convert_to(erased.order_id, 'UTF8')
    )
    UPDATE order_events SET state = convert_to(regexp_replace(regexp_replace(convert_from(state, 'UTF8'),
        '"(message|comment|note|explanation)":"([^"\\]|\\.)*"', '"\1":"[erased]"', 'g'),
        ',"refund_reason":"[^"]*"', '', 'g'), 'UTF8')
    FROM erased WHERE originator_id = erased.order_id AND originator_version < erased.version
    AND topic IN ('DisputeOpened', 'Accepted', 'Declined', 'OrderCanceled')
$$;
