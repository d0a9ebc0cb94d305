-- The roles and the schema. Runs as the login of `postgres.url`, which needs CREATEROLE here and CREATE on the database;
-- it needs no superuser. Roles belong to the whole server: another database may have made them already.
DO $$
DECLARE
  wanted record;
  may_become boolean;
BEGIN
  FOR wanted IN SELECT unnest(ARRAY['omnilink_service', 'omnilink_reader']) AS name LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', wanted.name);
      END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL; -- Another database's migration was quicker.
    END;
  END LOOP;

  -- From 16 on, who makes a role is its member, but may not become it before it grants itself that.
  IF current_setting('server_version_num')::int >= 160000 THEN
    EXECUTE 'SELECT pg_has_role(''omnilink_service'', ''SET'')' INTO may_become;
    IF NOT may_become THEN
      EXECUTE format('GRANT omnilink_service TO %I WITH INHERIT TRUE, SET TRUE', current_user);
    END IF;
  ELSIF NOT pg_has_role('omnilink_service', 'MEMBER') THEN
    EXECUTE format('GRANT omnilink_service TO %I', current_user);
  END IF;

  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'omnilink') THEN
    CREATE SCHEMA omnilink AUTHORIZATION omnilink_service;
  END IF;
END
$$;
