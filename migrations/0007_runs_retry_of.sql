-- The runs that repeat another one, which are few: whether a later run has taken over its steps.
CREATE INDEX runs_retry_of ON omnilink.runs (tenant, retry_of) WHERE retry_of IS NOT NULL;
