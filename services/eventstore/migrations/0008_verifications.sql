-- What each `resolution verify` found: one row for each time it came to its end.
CREATE TABLE verifications (
    finished_at timestamptz NOT NULL DEFAULT now(),
    checked     text        NOT NULL,
    differences bigint      NOT NULL,
    PRIMARY KEY (checked, finished_at)
);

-- For counting the deadlines that are over, among all that are not.
-- Made when tables were small.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX deadlines_due_at_idx ON deadlines (due_at);
