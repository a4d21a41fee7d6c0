-- +goose Up
-- Who brought what waits for signatures first: whoever finds it in their way is told whom to ask, and who brought it may take it back.
ALTER TABLE trust_pending ADD COLUMN brought_by INTEGER REFERENCES "user" (id) ON DELETE SET NULL;
CREATE INDEX trust_pending_brought_by ON trust_pending (brought_by);
