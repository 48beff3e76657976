-- Each read model's tables are in a schema of its name. `code` tells which code built them.
CREATE TABLE read_models (
    name text NOT NULL PRIMARY KEY,
    code text NOT NULL
);

-- The order page was in the public schema once; it is built anew in its own.
-- A role of the first release makes it anew.
-- squawk-ignore ban-drop-table
DROP TABLE IF EXISTS order_pages;
DO $$ BEGIN
    IF to_regclass('projection_tracking') IS NOT NULL THEN
        DELETE FROM projection_tracking WHERE application_name = 'order_page';
    END IF;
END $$;

-- Notifications to publish, and those that were: one row for each that ever falls due, so that none goes out twice,
-- whatever is built anew. Rows are added under the appenders' lock.
CREATE TABLE notifications (
    notification_id bigint  NOT NULL PRIMARY KEY,
    order_id        text    NOT NULL,
    dispute_id      text    NOT NULL,
    hours           integer NOT NULL,
    message         bytea   NOT NULL,  -- the envelope
    UNIQUE (order_id, dispute_id, hours)
);
