-- The month in which a record was judged: by it outcomes become a partition for each month (0015), so that old months can
-- be dropped whole. All that are here already count as judged in the month of this migration.
-- As a constant for the rows that are there: nothing is written anew.
DO $$ DECLARE
    this date := date_trunc('month', now() AT TIME ZONE 'UTC');
    next date := this + interval '1 month';
BEGIN
    EXECUTE format('ALTER TABLE outcomes ADD COLUMN month date NOT NULL DEFAULT %L', this);
    EXECUTE format('ALTER TABLE outcomes ADD CONSTRAINT outcomes_month_check CHECK (month >= %L AND month < %L) NOT VALID',
        this, next);
END $$;
