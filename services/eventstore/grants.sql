-- What the database roles of deploy/postgres/roles.sql may do with the tables of the schema public. It runs after the
-- migrations, each time, where the roles exist; a migration that adds a table says here who may do what with it.
-- Nobody but the owner may change or delete an event or an outcome. Read models belong to resolution_projections.
DO $$ BEGIN
IF to_regrole('resolution_service') IS NULL THEN
    RETURN;
END IF;

-- Each looks whether the schema is up to date, asks for the time, and shows metrics of the whole installation.
GRANT SELECT ON schema_migrations, clock, order_events, outcomes, positions, deadlines, parked_commands,
        handled_dead_letters, projection_tracking, verifications, master_keys, publishing, shard, splits, outcome_months
    TO resolution_service, resolution_projections, resolution_http, resolution_auditor;

GRANT SELECT (published, last_event_id) ON checkpoints TO resolution_projections, resolution_http;  -- not their salt

-- commands, relay, timer, checkpoints, and operators: parked and dead.
GRANT SELECT ON parking, notifications, checkpoints TO resolution_service;
GRANT INSERT ON order_events, outcomes TO resolution_service;
REVOKE EXECUTE ON FUNCTION add_month(date), append_month() FROM PUBLIC;
-- It makes the table of a new month, in the first of these.
ALTER FUNCTION append_month() SET search_path = public, pg_temp;
GRANT EXECUTE ON FUNCTION append_month() TO resolution_service;
GRANT INSERT, UPDATE ON positions, handled_dead_letters TO resolution_service;
GRANT INSERT, UPDATE, DELETE ON deadlines, parked_commands TO resolution_service;
GRANT UPDATE ON parking TO resolution_service;
GRANT UPDATE (published, last_event_id) ON checkpoints TO resolution_service;
GRANT SELECT, INSERT, UPDATE ON order_snapshots TO resolution_service;

-- Texts: made and erased by whoever appends, read by whoever shows or publishes them. Projections have no part in it.
GRANT SELECT ON order_keys TO resolution_service, resolution_http, resolution_auditor;
GRANT INSERT, UPDATE (master, wrapped, erased_at) ON order_keys TO resolution_service;
GRANT INSERT ON master_keys TO resolution_service;
REVOKE EXECUTE ON FUNCTION erase_plain_texts(text[]) FROM PUBLIC;
-- It has its owner's rights: tables of other schemas must not get before its own.
ALTER FUNCTION erase_plain_texts(text[]) SET search_path = pg_catalog, public, pg_temp;
GRANT EXECUTE ON FUNCTION erase_plain_texts(text[]) TO resolution_service;

-- The relay notes what it publishes, and adopts reminders that went out before the database was restored.
GRANT UPDATE ON publishing TO resolution_service;
GRANT INSERT, DELETE ON notifications TO resolution_service;

-- Projections, reminders, `resolution rebuild`.
GRANT SELECT, INSERT, UPDATE, DELETE ON read_models, projection_tracking TO resolution_projections;
GRANT SELECT, INSERT ON notifications TO resolution_projections;

-- Auditors read everything; `resolution verify` notes what it found.
GRANT SELECT ON parking, notifications, checkpoints, read_models, order_snapshots TO resolution_auditor;
GRANT INSERT ON verifications TO resolution_auditor;
END $$;
