SELECT compare_bytewise(ARRAY['order_keys']::regclass[]);
