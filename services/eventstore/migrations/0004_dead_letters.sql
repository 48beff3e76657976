-- What operators did about dead letters. The letters themselves are rows of `outcomes`.
CREATE TABLE handled_dead_letters (
    partition     integer     NOT NULL,
    record_offset bigint      NOT NULL,
    how           text        NOT NULL CHECK (how IN ('retried', 'discarded')),
    why           text        NOT NULL,  -- the operator's words; empty for a retry
    handled_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, record_offset)
);
-- Made when tables were small.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX outcomes_dead_idx ON outcomes (partition, record_offset) WHERE kind = 'dead';
