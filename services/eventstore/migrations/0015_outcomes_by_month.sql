-- The months of `outcomes`, and what was dropped with those that were retired (`resolution retire-outcomes`): the last
-- numbers of each. Months follow the order of the outcomes.
CREATE TABLE outcome_months (
    month           date NOT NULL PRIMARY KEY,  -- its first day, UTC
    retired_at      timestamptz,
    last_outcome_id bigint,
    last_event_id   bigint
);

-- As an expression it is the default for a role of the version before, which knows no months.
CREATE FUNCTION newest_month() RETURNS date LANGUAGE sql STABLE AS $$ SELECT max(month) FROM outcome_months $$;

-- The last event before the end of the months that were retired.
CREATE FUNCTION retired_event_id() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce(max(last_event_id), 0) FROM outcome_months
$$;

-- Makes the table of a month. Numbers are given and command ids are used first under the appenders' lock, so that an
-- index of each month is enough for numbers; for command ids see services/retention/months.py.
CREATE FUNCTION add_month(new_month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := to_char(new_month, '"outcomes_"YYYY"_"MM');
    next date := new_month + interval '1 month';
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE outcomes INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (outcome_id), '
        'CONSTRAINT outcomes_month_check CHECK (month >= %L AND month < %L))', name, new_month, next);
    EXECUTE format('CREATE UNIQUE INDEX ON %I (order_id, command_id) WHERE kind IN (''accepted'', ''rejected'')', name);
    -- It takes no lock that those who read or append would wait for, as CREATE TABLE ... PARTITION OF does.
    EXECUTE format('ALTER TABLE outcomes ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, new_month, next);
    INSERT INTO outcome_months (month) VALUES (new_month);
END $$;

-- The month in which what is appended now belongs, under the appenders' lock. Never one before that of an earlier
-- append, whatever the clock says. It has its owner's rights, for who appends may not make tables.
CREATE FUNCTION append_month() RETURNS date LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    newest date;
    this   date := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('order_events', 0));
    SELECT max(month) INTO newest FROM outcome_months;
    IF this > newest THEN
        PERFORM add_month(this);
        RETURN this;
    END IF;
    RETURN newest;
END $$;

-- From here on `outcomes` has months; what was there is the first of them. Nothing is written anew, and nobody's rights
-- are missing for a moment. Under the appenders' lock: the tables are exchanged between two appends.
SELECT pg_advisory_xact_lock(hashtextextended('order_events', 0));
DO $$ DECLARE
    first date;
    name  text;
BEGIN
    SELECT substring(pg_get_expr(adbin, adrelid) FROM '\d+-\d+-\d+')::date INTO first FROM pg_attrdef
    JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
    WHERE adrelid = 'outcomes'::regclass AND attname = 'month';
    name := to_char(first, '"outcomes_"YYYY"_"MM');
    INSERT INTO outcome_months (month) VALUES (first);
    EXECUTE format('ALTER TABLE outcomes RENAME TO %I', name);
    EXECUTE format('ALTER TABLE %I ALTER COLUMN month SET DEFAULT newest_month()', name);
    EXECUTE format('CREATE TABLE outcomes (LIKE %I INCLUDING DEFAULTS, CONSTRAINT outcomes_kind_check '
        'CHECK (kind IN (''accepted'', ''rejected'', ''repeated'', ''reused'', ''dead''))) PARTITION BY RANGE (month)', name);
    EXECUTE format('ALTER TABLE outcomes ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first,
        (first + interval '1 month')::date);
    IF to_regrole('resolution_service') IS NOT NULL THEN
        GRANT SELECT ON outcomes TO resolution_service, resolution_projections, resolution_http, resolution_auditor;
        GRANT INSERT ON outcomes TO resolution_service;
        EXECUTE format('REVOKE ALL ON %I FROM resolution_service, resolution_projections, resolution_http, '
            'resolution_auditor', name);
    END IF;
END $$;

-- The first month has them already; they become parts of these.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX outcomes_by_dead_idx ON outcomes (partition, record_offset) WHERE kind = 'dead';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX outcomes_by_again_idx ON outcomes (order_id) WHERE kind IN ('repeated', 'reused');
