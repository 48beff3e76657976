-- An auditor asks for all commands of one order; those that came first are found by the index of first uses.
CREATE INDEX outcomes_again_idx ON outcomes (order_id) WHERE kind IN ('repeated', 'reused');
