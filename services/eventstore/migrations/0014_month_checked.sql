-- Reads the table, and lets everybody write to it meanwhile; without it the next migration would have to, alone.
ALTER TABLE outcomes VALIDATE CONSTRAINT outcomes_month_check;
