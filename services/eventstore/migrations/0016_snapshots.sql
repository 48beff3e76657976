-- States of long orders, so that loading one does not begin with its first event. Derived from the events, and never
-- missed: a row that is lost or deleted is made anew when its order is loaded again. So it takes no part in the WAL, and
-- writing it waits for no disk; after a crash, and on a promoted standby, the table is empty.
CREATE UNLOGGED TABLE order_snapshots (
    order_id text   NOT NULL PRIMARY KEY,
    version  bigint NOT NULL,  -- the order's last event that the state knows; no dispute is open after it
    code     text   NOT NULL,  -- a digest of the code that made the state; other code makes another one
    state    bytea  NOT NULL   -- JSON
);
