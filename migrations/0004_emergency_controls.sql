-- What the emergency controls are, for operators: a row for each switch (enabled: it is in force) and for each feature (enabled: it
-- can be used). They concern all tenants, and readers have no access.
CREATE TABLE omnilink.emergency_controls (
    feature_name text COLLATE "C" PRIMARY KEY,
    enabled boolean NOT NULL,
    value jsonb,
    disabled_reason text,
    updated_by text,
    updated_at timestamptz
);
COMMENT ON TABLE omnilink.emergency_controls IS 'Kill switch, take-over, safe mode, disabled features';
