-- The idempotency key of a call that keeps the key of an earlier run (docs/workers.md); all other keys follow from the row.
ALTER TABLE omnilink.tasks ADD COLUMN idempotency_key text COLLATE "C";

COMMENT ON COLUMN omnilink.tasks.idempotency_key IS 'Where it is not run_id:step_id:kind: that of the run whose compensation is called again';
