-- The database roles of the Resolution Center, each with no more rights than what runs under it needs. A superuser runs
-- this in the service's own database, once; again does no harm:
--
--   createdb resolution
--   psql -d resolution -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--   psql -d resolution -c '\password resolution_owner'       and so on for each: without a password nobody logs in
--
-- Then `resolution migrate` as resolution_owner makes the tables and grants what the others need of them
-- (services/eventstore/grants.sql).
--
--   resolution_owner        `resolution migrate`
--   resolution_service      the roles commands, relay, timer, checkpoints; `resolution parked`, `dead`
--   resolution_projections  the role projections; `resolution rebuild`, `replay --all`
--   resolution_http         the role http
--   resolution_auditor      `resolution verify`, `ledger`, `replay ORDER`, `export`, `checkpoints export`
BEGIN;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['resolution_owner', 'resolution_service', 'resolution_projections', 'resolution_http',
                                'resolution_auditor'] LOOP
        IF to_regrole(name) IS NULL THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
        -- Not "$user": whoever may make a schema must not get before the tables of others.
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = public', name, current_database());
    END LOOP;
END $$;

-- The database: nobody else connects to it, and only the owner and the read models' owner make anything in it.
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I OWNER TO resolution_owner', current_database());
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO resolution_service, resolution_http', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO resolution_auditor', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY, CREATE ON DATABASE %I TO resolution_projections', current_database());
END $$;
ALTER SCHEMA public OWNER TO resolution_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO resolution_service, resolution_projections, resolution_http, resolution_auditor;

-- Read models are made and made anew by resolution_projections; these may read each.
ALTER DEFAULT PRIVILEGES FOR ROLE resolution_projections GRANT USAGE ON SCHEMAS TO resolution_http, resolution_auditor;
ALTER DEFAULT PRIVILEGES FOR ROLE resolution_projections GRANT SELECT ON TABLES TO resolution_http, resolution_auditor;

-- A database that was used before, by one user: what there is gets its owner.
DO $$
DECLARE
    thing record;
BEGIN
    FOR thing IN SELECT oid::regclass AS name FROM pg_class
                 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO resolution_owner', thing.name);
    END LOOP;
    FOR thing IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                 AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e') LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO resolution_owner', thing.name);
    END LOOP;
    IF to_regclass('public.read_models') IS NULL THEN
        RETURN;
    END IF;
    FOR thing IN SELECT nspname FROM pg_namespace
                 WHERE regexp_replace(nspname, '_old$', '') IN (SELECT name FROM public.read_models) LOOP
        EXECUTE format('ALTER SCHEMA %I OWNER TO resolution_projections', thing.nspname);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO resolution_http, resolution_auditor', thing.nspname);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO resolution_http, resolution_auditor', thing.nspname);
    END LOOP;
    FOR thing IN SELECT c.oid::regclass AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
                 WHERE relkind = 'r'
                 AND regexp_replace(nspname, '_old$', '') IN (SELECT r.name FROM public.read_models AS r) LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO resolution_projections', thing.name);
    END LOOP;
END $$;

COMMIT;
