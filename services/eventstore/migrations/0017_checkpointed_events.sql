-- The last event that a published checkpoint covers, for those who watch: what is behind it nobody could prove yet.
ALTER TABLE checkpoints ADD COLUMN last_event_id bigint NOT NULL DEFAULT 0;
