-- The values of the placeholders in a task's input, sealed with `secret_key`: a claim puts them in (docs/workers.md).
ALTER TABLE omnilink.tasks ADD COLUMN sealed text;

COMMENT ON COLUMN omnilink.tasks.input IS 'JSON text, as workers get it, but with placeholders instead of the personal data of a goal';
COMMENT ON COLUMN omnilink.tasks.sealed IS 'The values of the placeholders, sealed with secret_key';
