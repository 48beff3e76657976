-- Of all months, and so of those to come (see add_month).
SELECT compare_bytewise(ARRAY['outcomes']::regclass[]);
