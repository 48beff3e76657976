-- Tables of a few rows.
SELECT compare_bytewise(ARRAY[
    'master_keys', 'positions', 'projection_tracking', 'read_models', 'schema_migrations', 'verifications'
]::regclass[]);
