-- Runs: what they are, their steps, their history, and what people were asked. All of it follows the topic `runs`.

-- Each has one partition on purpose, as `entities` has: a rebuild fills another one beside it and swaps the two.
CREATE TABLE omnilink.runs (
  tenant           text        COLLATE "C" NOT NULL,
  run_id           text        COLLATE "C" NOT NULL,
  seq              bigint      NOT NULL,
  status           text        COLLATE "C" NOT NULL,
  workflow_name    text        COLLATE "C",
  workflow_version text,
  goal             text,
  params           jsonb,
  plan             jsonb,
  output           jsonb,
  error            jsonb,
  retry_of         text        COLLATE "C",
  trigger          text        NOT NULL,
  principal        text        COLLATE "C",
  on_behalf_of     text,
  risk_score       double precision,
  created_at       timestamptz NOT NULL,
  updated_at       timestamptz NOT NULL,
  finished_at      timestamptz,
  PRIMARY KEY (tenant, run_id)
) PARTITION BY RANGE (tenant);
CREATE INDEX runs_created ON omnilink.runs (tenant, created_at, run_id); -- newest first of a tenant: read backwards
-- Those that people look for, which are few.
CREATE INDEX runs_status ON omnilink.runs (tenant, status, created_at, run_id) WHERE status <> 'succeeded';

CREATE TABLE omnilink.run_steps (
  tenant       text        COLLATE "C" NOT NULL,
  run_id       text        COLLATE "C" NOT NULL,
  step_id      text        COLLATE "C" NOT NULL,
  tool         text        NOT NULL,
  status       text        NOT NULL,
  attempts     bigint      NOT NULL,
  output       jsonb,
  error        jsonb,
  started_at   timestamptz,
  finished_at  timestamptz,
  compensation jsonb,
  PRIMARY KEY (tenant, run_id, step_id)
) PARTITION BY RANGE (tenant);

CREATE TABLE omnilink.run_events (
  tenant text        COLLATE "C" NOT NULL,
  run_id text        COLLATE "C" NOT NULL,
  seq    bigint      NOT NULL,
  type   text        NOT NULL,
  at     timestamptz NOT NULL,
  record jsonb       NOT NULL,
  PRIMARY KEY (tenant, run_id, seq)
) PARTITION BY RANGE (tenant);

CREATE TABLE omnilink.approvals (
  tenant       text        COLLATE "C" NOT NULL,
  approval_id  text        COLLATE "C" NOT NULL,
  run_id       text        COLLATE "C" NOT NULL,
  step_id      text        COLLATE "C",
  kind         text        NOT NULL,
  status       text        COLLATE "C" NOT NULL,
  lane         text        NOT NULL,
  risk_score   double precision NOT NULL,
  reasons      jsonb       NOT NULL,
  input        jsonb       NOT NULL,
  input_hash   text        NOT NULL,
  message      text,
  requested_at timestamptz NOT NULL,
  expires_at   timestamptz NOT NULL,
  decided_by   text,
  decided_at   timestamptz,
  reason       text,
  -- An id begins with the run's: those of a run are a range.
  PRIMARY KEY (tenant, approval_id)
) PARTITION BY RANGE (tenant);
CREATE INDEX approvals_status ON omnilink.approvals (tenant, status, requested_at, approval_id);

CREATE TABLE omnilink.runs_all PARTITION OF omnilink.runs FOR VALUES FROM (MINVALUE) TO (MAXVALUE) WITH (fillfactor = 80);
CREATE TABLE omnilink.run_steps_all PARTITION OF omnilink.run_steps FOR VALUES FROM (MINVALUE) TO (MAXVALUE) WITH (fillfactor = 80);
CREATE TABLE omnilink.run_events_all PARTITION OF omnilink.run_events FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE TABLE omnilink.approvals_all PARTITION OF omnilink.approvals FOR VALUES FROM (MINVALUE) TO (MAXVALUE);

-- A reader sees the tenants granted to its login, as in 0002. Partitions have no policy: they show nothing.
DO $$
DECLARE
  named text;
BEGIN
  FOREACH named IN ARRAY ARRAY['runs', 'run_steps', 'run_events', 'approvals'] LOOP
    EXECUTE format('ALTER TABLE omnilink.%I ENABLE ROW LEVEL SECURITY', named);
    EXECUTE format('ALTER TABLE omnilink.%I ENABLE ROW LEVEL SECURITY', named || '_all');
    EXECUTE format($policy$
      CREATE POLICY readers ON omnilink.%I FOR SELECT TO omnilink_reader USING (
        tenant = ANY (ARRAY(
          SELECT g.tenant FROM omnilink.reader_grants g
          WHERE g.role = session_user
            AND COALESCE(NULLIF(current_setting('omnilink.tenant', true), ''), g.tenant) = g.tenant)))
      $policy$, named);
    EXECUTE format('GRANT SELECT ON omnilink.%I TO omnilink_reader', named);
  END LOOP;
END
$$;

COMMENT ON TABLE omnilink.runs IS 'Runs as they are now (docs/runs.md)';
COMMENT ON COLUMN omnilink.runs.seq IS 'The number of its last record in run_events';
COMMENT ON COLUMN omnilink.runs.plan IS 'An object: hash, source, steps, output';
COMMENT ON COLUMN omnilink.runs.trigger IS 'What started it: request, event, cron or retry';
COMMENT ON COLUMN omnilink.runs.risk_score IS 'The highest score of its approvals';
COMMENT ON TABLE omnilink.run_steps IS 'The steps of the plans of runs';
COMMENT ON TABLE omnilink.run_events IS 'The history of runs, one record a row, kept forever';
COMMENT ON COLUMN omnilink.run_events.record IS 'The fields of this type, with causation';
COMMENT ON TABLE omnilink.approvals IS 'Questions to people, and what they decided';
COMMENT ON COLUMN omnilink.approvals.approval_id IS 'RUN_ID.SEQ: the record that asked';
