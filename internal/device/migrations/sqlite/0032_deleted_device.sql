-- +goose Up
-- A device may go by its own deletion or with its fleet. Whichever it is, what it was known by goes in the same statement (an
-- actor's keys go with the actor): no path may leave a key that works. Its log is dropped soon after; the row here says that
-- this is still to do.
CREATE TABLE deleted_device (
    uuid       TEXT PRIMARY KEY,
    device     INTEGER NOT NULL,
    deleted_at TEXT NOT NULL
) WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER device_deleted AFTER DELETE ON device
BEGIN
    DELETE FROM actor WHERE id = OLD.actor;
    INSERT OR REPLACE INTO deleted_device (uuid, device, deleted_at)
    VALUES (OLD.uuid, OLD.id, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
END;
-- +goose StatementEnd
