-- The history of a run and the requests to start one, in fewer rows: a run of three steps had fifteen, and has six.

-- Records that are written together are one row of `run_history`, as text: Postgres does not parse them to store them. Readers see
-- the view `run_events`, with a row for each record.
CREATE TABLE omnilink.run_history (
  tenant    text          COLLATE "C" NOT NULL,
  run_id    text          COLLATE "C" NOT NULL,
  first_seq bigint        NOT NULL,
  types     text[]        NOT NULL,
  at        timestamptz[] NOT NULL,
  records   text[]        NOT NULL,
  PRIMARY KEY (tenant, run_id, first_seq)
) PARTITION BY RANGE (tenant);
-- A row below this size is stored as it is: to compress a few kilobytes costs more than to write them.
CREATE TABLE omnilink.run_history_all PARTITION OF omnilink.run_history FOR VALUES FROM (MINVALUE) TO (MAXVALUE)
  WITH (toast_tuple_target = 8160);

INSERT INTO omnilink.run_history (tenant, run_id, first_seq, types, at, records)
  SELECT tenant, run_id, min(seq), array_agg(type ORDER BY seq), array_agg(at ORDER BY seq), array_agg(record::text ORDER BY seq)
  FROM (SELECT *, row_number() OVER (PARTITION BY tenant, run_id ORDER BY seq) - 1 AS n FROM omnilink.run_events) e
  -- Consecutive records, at most 64 a row.
  GROUP BY tenant, run_id, seq - n, n / 64;
DROP TABLE omnilink.run_events;

CREATE VIEW omnilink.run_events WITH (security_invoker = true) AS
  SELECT h.tenant, h.run_id, h.first_seq + e.n - 1 AS seq, e.type, e.at, e.record::jsonb AS record
  FROM omnilink.run_history h
    CROSS JOIN LATERAL unnest(h.types, h.at, h.records) WITH ORDINALITY e(type, at, record, n);

-- An entry of the audit log about a start has everything that the row had.
DROP TABLE omnilink.orchestration_requests;
CREATE VIEW omnilink.orchestration_requests WITH (security_invoker = true) AS
  SELECT tenant, id, COALESCE(detail ->> 'request_id', id) AS request_id, resource_id AS run_id, detail ->> 'kind' AS kind,
    detail ->> 'type' AS type, principal, on_behalf_of, detail ->> 'source' AS source, at AS received_at,
    COALESCE(detail ->> 'status', CASE outcome WHEN 'ok' THEN 'accepted' ELSE 'refused' END) AS status, detail ->> 'code' AS code
  FROM omnilink.audit_log WHERE action = 'start';
CREATE INDEX audit_log_run ON omnilink.audit_log (tenant, resource_id) WHERE action = 'start';
-- Retention reads the primary key, tenant by tenant.
DROP INDEX omnilink.audit_log_at;
DROP INDEX omnilink.rejections_at;

ALTER TABLE omnilink.run_history ENABLE ROW LEVEL SECURITY;
ALTER TABLE omnilink.run_history_all ENABLE ROW LEVEL SECURITY;
-- As in 0002.
CREATE POLICY readers ON omnilink.run_history FOR SELECT TO omnilink_reader USING (
  tenant = ANY (ARRAY(
    SELECT g.tenant FROM omnilink.reader_grants g
    WHERE g.role = session_user
      AND COALESCE(NULLIF(current_setting('omnilink.tenant', true), ''), g.tenant) = g.tenant)));
GRANT SELECT ON omnilink.run_history, omnilink.run_events, omnilink.orchestration_requests TO omnilink_reader;

COMMENT ON TABLE omnilink.run_history IS 'The history of runs, kept forever, as it is stored; read run_events';
COMMENT ON COLUMN omnilink.run_history.first_seq IS 'The number of the first of these records, which are consecutive';
COMMENT ON COLUMN omnilink.run_history.records IS 'JSON texts';
COMMENT ON VIEW omnilink.run_events IS 'The history of runs, one record a row, kept forever';
COMMENT ON COLUMN omnilink.run_events.record IS 'The fields of this type, with causation';
COMMENT ON VIEW omnilink.orchestration_requests IS 'Requests to start a run, and what became of them; kept as audit_log is';
COMMENT ON COLUMN omnilink.orchestration_requests.status IS 'accepted, duplicate or refused';
