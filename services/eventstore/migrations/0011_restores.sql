-- Which topic the positions are about: a topic that was created anew has other records under the same offsets. Where the
-- commands topic was lost and created anew, offsets are counted on: `base` is what is added to those of the topic, here
-- and wherever a record is named. Null until the role has read on.
ALTER TABLE positions ADD COLUMN topic_id uuid;
ALTER TABLE positions ADD COLUMN base bigint NOT NULL DEFAULT 0;

-- What the relay is about to publish, noted before it does: a store that was restored to an earlier state lacks the note
-- of what is on Kafka already. One row.
CREATE TABLE publishing (
    only_row                 boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Changes each time that the relay has brought a restored store and the topics together; it is on the relay's topic, too.
    timeline                 text    NOT NULL DEFAULT '',
    -- The last outcome and notification that may be on Kafka. Null where an earlier version has published.
    intended_outcome_id      bigint,
    intended_notification_id bigint,
    -- The relay's position of a moment, as JSON, and where its topics ended then: a list of [topic, partition, offset].
    published                bytea,
    ends                     bytea
);
INSERT INTO publishing (intended_outcome_id, intended_notification_id)
SELECT 0, 0 WHERE NOT EXISTS (SELECT FROM outcomes)
UNION ALL SELECT NULL, NULL WHERE EXISTS (SELECT FROM outcomes);
