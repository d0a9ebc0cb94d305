-- The audit log with what is derived from it, tables that follow the topic `controls`, and webhooks from Odoo.

-- A schema needs CREATE on the database, which the login of `postgres.url` has and omnilink_service has not.
RESET ROLE;
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'odoo') THEN
    CREATE SCHEMA odoo AUTHORIZATION omnilink_service;
  END IF;
END
$$;
SET LOCAL ROLE omnilink_service;
GRANT USAGE ON SCHEMA odoo TO omnilink_reader;

-- Each of the next four has one partition on purpose, as `entities` has: a rebuild fills another one beside it and swaps the two.
-- Their keys hold the entry's id, so that an entry that the log has twice is one row.
CREATE TABLE omnilink.audit_log (
  tenant        text        COLLATE "C" NOT NULL,
  at            timestamptz NOT NULL,
  id            text        COLLATE "C" NOT NULL,
  principal     text,
  on_behalf_of  text,
  action        text        COLLATE "C" NOT NULL,
  resource_type text        COLLATE "C",
  resource_id   text        COLLATE "C",
  outcome       text        NOT NULL,
  address       inet,
  user_agent    text,
  detail        jsonb       NOT NULL,
  PRIMARY KEY (tenant, at, id) -- newest first of a tenant: read backwards
) PARTITION BY RANGE (tenant);
CREATE INDEX audit_log_at ON omnilink.audit_log (at); -- for retention
-- The last use of a key, and the last delivery of a source.
CREATE INDEX audit_log_used ON omnilink.audit_log (tenant, action, resource_id, at)
  WHERE action IN ('key.used', 'source.received');

CREATE TABLE omnilink.rejections (
  tenant    text        COLLATE "C" NOT NULL,
  id        text        COLLATE "C" NOT NULL,
  at        timestamptz NOT NULL,
  source    text        COLLATE "C" NOT NULL,
  address   inet,
  code      text        NOT NULL,
  message   text,
  body_hash text,
  body_head bytea,
  PRIMARY KEY (tenant, at, id)
) PARTITION BY RANGE (tenant);
CREATE INDEX rejections_at ON omnilink.rejections (at);

CREATE TABLE omnilink.orchestration_requests (
  tenant       text        COLLATE "C" NOT NULL,
  id           text        COLLATE "C" NOT NULL,
  request_id   text        COLLATE "C" NOT NULL,
  run_id       text        COLLATE "C",
  kind         text,
  type         text,
  principal    text,
  on_behalf_of text,
  source       text,
  received_at  timestamptz NOT NULL,
  status       text        NOT NULL,
  code         text,
  PRIMARY KEY (tenant, received_at, id)
) PARTITION BY RANGE (tenant);
CREATE INDEX orchestration_requests_received_at ON omnilink.orchestration_requests (received_at);
CREATE INDEX orchestration_requests_run ON omnilink.orchestration_requests (tenant, run_id) WHERE run_id IS NOT NULL;

CREATE TABLE odoo.webhook_events (
  tenant         text        COLLATE "C" NOT NULL,
  id             text        COLLATE "C" NOT NULL,
  source         text        COLLATE "C" NOT NULL,
  event_type     text        NOT NULL,
  aggregate_type text,
  aggregate_id   text,
  payload        jsonb,
  status         text        NOT NULL,
  retry_count    bigint      NOT NULL,
  error_message  text,
  received_at    timestamptz NOT NULL,
  processed_at   timestamptz,
  PRIMARY KEY (tenant, source, id)
) PARTITION BY RANGE (tenant);
CREATE INDEX webhook_events_status ON odoo.webhook_events (tenant, status, received_at);

CREATE TABLE omnilink.audit_log_all PARTITION OF omnilink.audit_log FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE TABLE omnilink.rejections_all PARTITION OF omnilink.rejections FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE TABLE omnilink.orchestration_requests_all PARTITION OF omnilink.orchestration_requests
  FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE TABLE odoo.webhook_events_all PARTITION OF odoo.webhook_events FOR VALUES FROM (MINVALUE) TO (MAXVALUE);

-- These follow the topic `controls`; `last_used_at` and `last_received_at` come from the topic `audit`.
CREATE TABLE omnilink.api_keys (
  tenant          text        COLLATE "C" NOT NULL,
  id              text        COLLATE "C" NOT NULL,
  name            text        NOT NULL,
  principal       text        NOT NULL,
  kind            text        NOT NULL,
  prefix          text        NOT NULL,
  scopes          jsonb       NOT NULL,
  max_rpm         bigint      NOT NULL,
  max_concurrency bigint      NOT NULL,
  created_at      timestamptz NOT NULL,
  expires_at      timestamptz,
  last_used_at    timestamptz,
  revoked_at      timestamptz,
  PRIMARY KEY (tenant, id)
);
CREATE TABLE omnilink.integrations (
  tenant           text        COLLATE "C" NOT NULL,
  id               text        COLLATE "C" NOT NULL,
  name             text        COLLATE "C" NOT NULL,
  dialect          text        NOT NULL,
  status           text        NOT NULL,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  last_received_at timestamptz,
  PRIMARY KEY (tenant, id)
);
-- Bookkeeping of the whole installation: it has no tenant, and readers have no grant.
CREATE TABLE omnilink.emergency_controls (
  feature_name    text        COLLATE "C" PRIMARY KEY,
  enabled         boolean     NOT NULL,
  value           jsonb       NOT NULL,
  disabled_reason text,
  updated_by      text,
  updated_at      timestamptz
);

-- A reader sees the tenants granted to its login, as in 0002. Partitions have no policy: they show nothing.
DO $$
DECLARE
  named text;
BEGIN
  FOREACH named IN ARRAY ARRAY['omnilink.audit_log', 'omnilink.rejections', 'omnilink.orchestration_requests',
    'odoo.webhook_events', 'omnilink.api_keys', 'omnilink.integrations'] LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', named);
    EXECUTE format($policy$
      CREATE POLICY readers ON %s FOR SELECT TO omnilink_reader USING (
        tenant = ANY (ARRAY(
          SELECT g.tenant FROM omnilink.reader_grants g
          WHERE g.role = session_user
            AND COALESCE(NULLIF(current_setting('omnilink.tenant', true), ''), g.tenant) = g.tenant)))
      $policy$, named);
    EXECUTE format('GRANT SELECT ON %s TO omnilink_reader', named);
  END LOOP;
  FOREACH named IN ARRAY ARRAY['omnilink.audit_log_all', 'omnilink.rejections_all', 'omnilink.orchestration_requests_all',
    'odoo.webhook_events_all', 'omnilink.emergency_controls'] LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', named);
  END LOOP;
END
$$;

COMMENT ON SCHEMA odoo IS 'Projections of what Odoo sends';
COMMENT ON TABLE omnilink.audit_log IS 'Who did what: every change, decision, refusal and failed authentication; kept for audit.retention_days';
COMMENT ON COLUMN omnilink.audit_log.tenant IS 'Whose data or rights it concerns; `-`: the whole installation, or a request without a valid key';
COMMENT ON COLUMN omnilink.audit_log.outcome IS 'ok, denied or failed';
COMMENT ON COLUMN omnilink.audit_log.detail IS 'An object whose fields depend on the action';
COMMENT ON TABLE omnilink.rejections IS 'Requests of webhook senders that were turned away, and why; kept as audit_log is';
COMMENT ON COLUMN omnilink.rejections.body_head IS 'The first 4 KiB of the body';
COMMENT ON TABLE omnilink.orchestration_requests IS 'Requests to start a run, and what became of them; kept as audit_log is';
COMMENT ON COLUMN omnilink.orchestration_requests.status IS 'accepted, duplicate or refused';
COMMENT ON TABLE omnilink.api_keys IS 'API keys without their secrets; a revoked key keeps its row';
COMMENT ON COLUMN omnilink.api_keys.last_used_at IS 'To the hour';
COMMENT ON TABLE omnilink.integrations IS 'Webhook sources without their secrets; a deleted one keeps its row';
COMMENT ON COLUMN omnilink.integrations.last_received_at IS 'To the hour';
COMMENT ON TABLE omnilink.emergency_controls IS 'Switches (enabled = in force) and features (enabled = usable)';
COMMENT ON TABLE odoo.webhook_events IS 'Webhook deliveries of Odoo: pending, completed or failed';
COMMENT ON COLUMN odoo.webhook_events.source IS 'The source of the event, /webhooks/TENANT/SOURCE';
COMMENT ON COLUMN odoo.webhook_events.retry_count IS 'How often the rejected record was put back on its topic';
