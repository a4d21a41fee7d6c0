-- +goose Up

-- Who made a key of a fleet: it ends when they no longer work on the fleet's devices. Keys made before this have no such person.
ALTER TABLE api_key ADD COLUMN is_created_by__user BIGINT REFERENCES "user" (id) ON DELETE CASCADE;
CREATE INDEX api_key_creator ON api_key (is_created_by__user);
