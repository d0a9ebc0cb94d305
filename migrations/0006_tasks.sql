-- The queue of work that is claimed over HTTP. It follows the topic `steps`; leases are here alone.

-- One partition on purpose, as `entities` has: a rebuild fills another one beside it and swaps the two.
CREATE TABLE omnilink.tasks (
  tenant           text        COLLATE "C" NOT NULL,
  task_id          text        COLLATE "C" NOT NULL,
  run_id           text        COLLATE "C" NOT NULL,
  workflow         text,
  step_id          text        COLLATE "C" NOT NULL,
  kind             text        NOT NULL,
  attempt          bigint      NOT NULL,
  tool             text        COLLATE "C" NOT NULL,
  status           text        COLLATE "C" NOT NULL,
  input            text        NOT NULL,
  execute          text,
  error            text,
  limit_key        text        COLLATE "C" NOT NULL,
  timeout_ms       bigint      NOT NULL,
  deadline         timestamptz NOT NULL,
  traceparent      text,
  tracestate       text,
  created_at       timestamptz NOT NULL,
  started_at       timestamptz,
  finished_at      timestamptz,
  -- From here on leases.
  claimed_by       text,
  claimed_at       timestamptz,
  lease_hash       bytea,
  lease_ms         bigint,
  lease_expires_at timestamptz,
  outcome          text,
  PRIMARY KEY (tenant, task_id)
) PARTITION BY RANGE (tenant);
-- What can be claimed, the longest waiting first.
CREATE INDEX tasks_queue ON omnilink.tasks (tenant, tool, (COALESCE(lease_expires_at, created_at))) WHERE status IN ('open', 'claimed');
-- What limits count: tasks under way, and first claims.
CREATE INDEX tasks_leased ON omnilink.tasks (tool, lease_expires_at) WHERE status <> 'done' AND lease_expires_at IS NOT NULL;
CREATE INDEX tasks_claimed ON omnilink.tasks (tool, claimed_at) WHERE claimed_at IS NOT NULL;
-- What is forgotten.
CREATE INDEX tasks_done ON omnilink.tasks (finished_at) WHERE status = 'done';

CREATE TABLE omnilink.tasks_all PARTITION OF omnilink.tasks FOR VALUES FROM (MINVALUE) TO (MAXVALUE) WITH (fillfactor = 80);

-- A reader sees the tenants granted to its login, as in 0002. Partitions have no policy: they show nothing.
ALTER TABLE omnilink.tasks ENABLE ROW LEVEL SECURITY;
ALTER TABLE omnilink.tasks_all ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON omnilink.tasks FOR SELECT TO omnilink_reader USING (
  tenant = ANY (ARRAY(
    SELECT g.tenant FROM omnilink.reader_grants g
    WHERE g.role = session_user
      AND COALESCE(NULLIF(current_setting('omnilink.tenant', true), ''), g.tenant) = g.tenant)));
GRANT SELECT ON omnilink.tasks TO omnilink_reader;

COMMENT ON TABLE omnilink.tasks IS 'Work that is claimed over HTTP (docs/workers.md)';
COMMENT ON COLUMN omnilink.tasks.status IS 'open, claimed, paused or done';
COMMENT ON COLUMN omnilink.tasks.input IS 'JSON text, as workers get it';
COMMENT ON COLUMN omnilink.tasks.deadline IS 'When it is given up: before the first claim for lack of a worker, then for lack of an outcome';
COMMENT ON COLUMN omnilink.tasks.started_at IS 'When the run heard of the first claim';
COMMENT ON COLUMN omnilink.tasks.lease_hash IS 'SHA-256 of the last lease';
