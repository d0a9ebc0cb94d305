-- The first projections, their positions, and who may read. Runs as omnilink_service, which owns all of it: an owner
-- passes row-level security (never FORCEd), so that COPY works; readers do not.

GRANT USAGE ON SCHEMA omnilink TO omnilink_reader;

-- Bookkeeping: how far each projection has read each partition of its topic. Rows and position change in one transaction.
CREATE TABLE omnilink.projection_offsets (
  projection    text    COLLATE "C" NOT NULL,
  log_partition integer NOT NULL,
  next          bigint  NOT NULL CHECK (next >= 0), -- the next offset to be read
  epoch         bigint  NOT NULL,                   -- goes up with each owner
  generation    bigint  NOT NULL,                   -- goes up with each rebuild
  backend       integer,                            -- the owner's server process
  PRIMARY KEY (projection, log_partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE omnilink.reader_grants (
  role   text COLLATE "C" NOT NULL,
  tenant text COLLATE "C" NOT NULL,
  PRIMARY KEY (role, tenant)
);

CREATE TABLE omnilink.events (
  tenant         text        NOT NULL,
  id             text        NOT NULL,
  source         text        NOT NULL,
  type           text        NOT NULL,
  subject        text,
  entity_type    text,
  entity_id      text,
  correlation_id text,
  causation_id   text,
  time           timestamptz NOT NULL,
  time_source    text        NOT NULL,
  received_at    timestamptz NOT NULL,
  data           jsonb,
  data_base64    bytea,
  extensions     jsonb       NOT NULL,
  log_partition  integer     NOT NULL,
  log_offset     bigint      NOT NULL,
  PRIMARY KEY (received_at, log_partition, log_offset)
) PARTITION BY RANGE (received_at);
CREATE INDEX events_time ON omnilink.events USING brin (time) WITH (pages_per_range = 32);

-- One partition on purpose: a rebuild fills another one beside it and swaps the two, so that the table that readers,
-- grants, policies and views know stays the same.
CREATE TABLE omnilink.entities (
  tenant        text   COLLATE "C" NOT NULL,
  entity_type   text   COLLATE "C" NOT NULL,
  external_id   text   COLLATE "C" NOT NULL,
  display_name  text,
  state         jsonb  NOT NULL,
  version       bigint NOT NULL,
  last_event_id text   NOT NULL,
  last_event_at timestamptz NOT NULL,
  deleted_at    timestamptz,
  PRIMARY KEY (tenant, entity_type, external_id)
) PARTITION BY RANGE (tenant);

-- Large values compress faster with lz4, where the server was built with it.
DO $$
BEGIN
  ALTER TABLE omnilink.events ALTER COLUMN data SET COMPRESSION lz4;
  ALTER TABLE omnilink.entities ALTER COLUMN state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
  NULL;
END
$$;

CREATE TABLE omnilink.events_default PARTITION OF omnilink.events DEFAULT;
ALTER TABLE omnilink.events_default ENABLE ROW LEVEL SECURITY;
-- Changing columns carry no index, and a page keeps room for the next version of its rows: updates stay in place.
CREATE TABLE omnilink.entities_all PARTITION OF omnilink.entities FOR VALUES FROM (MINVALUE) TO (MAXVALUE)
  WITH (fillfactor = 70);
ALTER TABLE omnilink.entities_all ENABLE ROW LEVEL SECURITY;

-- A reader sees the tenants granted to its login; the setting `omnilink.tenant` narrows them to one, empty is unset. The
-- sub-selects are evaluated once a query. Partitions have row-level security and no policy: whoever is given access to
-- one by mistake sees nothing.
ALTER TABLE omnilink.reader_grants ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON omnilink.reader_grants FOR SELECT TO omnilink_reader USING (role = session_user);
ALTER TABLE omnilink.events ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON omnilink.events FOR SELECT TO omnilink_reader USING (
  tenant = ANY (ARRAY(
    SELECT g.tenant FROM omnilink.reader_grants g
    WHERE g.role = session_user
      AND COALESCE(NULLIF(current_setting('omnilink.tenant', true), ''), g.tenant) = g.tenant)));
ALTER TABLE omnilink.entities ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON omnilink.entities FOR SELECT TO omnilink_reader USING (
  tenant = ANY (ARRAY(
    SELECT g.tenant FROM omnilink.reader_grants g
    WHERE g.role = session_user
      AND COALESCE(NULLIF(current_setting('omnilink.tenant', true), ''), g.tenant) = g.tenant)));
GRANT SELECT ON omnilink.reader_grants, omnilink.events, omnilink.entities TO omnilink_reader;

COMMENT ON TABLE omnilink.events IS 'Admitted events, append-only, each once';
COMMENT ON COLUMN omnilink.events.received_at IS 'When the record that was admitted was appended to ingress';
COMMENT ON COLUMN omnilink.events.log_offset IS 'With log_partition: where the event lies in the topic events';
COMMENT ON TABLE omnilink.entities IS 'What the events say about each entity: their data, merged in log order (RFC 7396)';
COMMENT ON COLUMN omnilink.entities.version IS 'The number of events of this entity; never goes back';
COMMENT ON COLUMN omnilink.entities.deleted_at IS 'The time of the event that deleted it; a later event clears it';
COMMENT ON TABLE omnilink.reader_grants IS 'Which login sees which tenant';
