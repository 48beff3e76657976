-- An auditor asks for all commands of one order; those that came first are found by the index of first uses.
-- Made when tables were small.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX outcomes_again_idx ON outcomes (order_id) WHERE kind IN ('repeated', 'reused');
