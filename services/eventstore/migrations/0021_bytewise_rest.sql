-- Between two appends: those lock several of these tables in an order of their own.
SELECT pg_advisory_xact_lock(hashtextextended('order_events', 0));
SELECT compare_bytewise(ARRAY['deadlines', 'notifications', 'order_snapshots', 'parked_commands']::regclass[]);
