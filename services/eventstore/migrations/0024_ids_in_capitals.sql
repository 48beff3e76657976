-- A command id is the same in capital letters. Hardly any sender writes them, so that this has few entries or none, also
-- in the months to come (see services/judging/first_uses.py).
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX outcomes_in_capitals_idx ON outcomes (order_id, lower(command_id))
    WHERE kind IN ('accepted', 'rejected') AND command_id <> lower(command_id);
