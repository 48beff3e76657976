-- How far each read model has read: the eventsourcing library's table for single-row tracking, made here so that no role
-- needs the right to create tables beside the event store.
CREATE TABLE IF NOT EXISTS projection_tracking (
    application_name text,
    notification_id  bigint,
    PRIMARY KEY (application_name)
) WITH (
    autovacuum_enabled = true,
    autovacuum_vacuum_threshold = 100000000,
    autovacuum_vacuum_scale_factor = 0.5,
    autovacuum_analyze_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.01
);
INSERT INTO projection_tracking VALUES ('__migration__', 1) ON CONFLICT DO NOTHING;
