-- Events in ClickHouse, read by its own Kafka engine. A record that is read twice is one row, since the order and the
-- sequence are the key: query with FINAL, as `dispute_events` does.

CREATE TABLE resolution_events
(
    order_id     String,
    sequence     UInt64,
    name         LowCardinality(String),
    time         DateTime64(6, 'UTC'),
    command_id   UUID,
    data         String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (order_id, sequence);

CREATE TABLE resolution_events_queue (record String)
ENGINE = Kafka
SETTINGS kafka_broker_list = 'kafka:9092',
         kafka_topic_list = 'resolution.events',
         kafka_group_name = 'clickhouse',
         kafka_format = 'JSONAsString',
         kafka_num_consumers = 1;

CREATE MATERIALIZED VIEW resolution_events_reader TO resolution_events AS
SELECT JSONExtractString(record, 'subject')                                        AS order_id,
       JSONExtractUInt(record, 'sequence')                                         AS sequence,
       splitByChar('.', JSONExtractString(record, 'type'))[3]                      AS name,
       parseDateTime64BestEffort(JSONExtractString(record, 'time'), 6, 'UTC')      AS time,
       toUUID(JSONExtractString(record, 'causationid'))                            AS command_id,
       JSONExtractRaw(record, 'data')                                              AS data
FROM resolution_events_queue;

CREATE VIEW dispute_events AS
SELECT *, JSONExtractString(data, 'dispute_id') AS dispute_id, JSONExtractString(data, 'kind') AS kind
FROM resolution_events FINAL
WHERE JSONHas(data, 'kind');
