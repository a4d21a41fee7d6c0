-- +goose Up
-- A device may go by its own deletion or with its fleet. Whichever it is, what it was known by goes in the same statement (an
-- actor's keys go with the actor): no path may leave a key that works. Its log is dropped soon after; the row here says that
-- this is still to do.
CREATE TABLE deleted_device (
    uuid       TEXT COLLATE "C" PRIMARY KEY,
    device     BIGINT NOT NULL,
    deleted_at TEXT COLLATE "C" NOT NULL
);

-- +goose StatementBegin
CREATE FUNCTION device_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM actor WHERE id = OLD.actor;
    INSERT INTO deleted_device (uuid, device, deleted_at)
    VALUES (OLD.uuid, OLD.id, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
    ON CONFLICT (uuid) DO UPDATE SET device = excluded.device, deleted_at = excluded.deleted_at;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER device_deleted AFTER DELETE ON device FOR EACH ROW EXECUTE FUNCTION device_deleted();
