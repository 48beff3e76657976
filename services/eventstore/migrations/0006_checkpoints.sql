-- What checkpoints need of the database. Their hashes are published, and a confidential field has few values: without
-- a salt that only readers of the database know, it could be guessed from a hash. `published` is the number of the
-- last checkpoint on its topic, so that a file that lacks the last ones is found out. One row.
CREATE TABLE checkpoints (
    only_row  boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    salt      bytea   NOT NULL,
    published bigint  NOT NULL DEFAULT 0
);
INSERT INTO checkpoints (salt)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));
