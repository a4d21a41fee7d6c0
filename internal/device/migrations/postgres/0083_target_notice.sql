-- +goose Up
-- Processes of the api role remember what the database said of a device that polls. Whoever changes any of it tells them: what
-- changed, a device or a fleet, once its transaction is committed. A query that decides a target and reads a column that is
-- not listed here needs it listed.

-- +goose StatementBegin
CREATE FUNCTION notice_of_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('device_target', 'device ' || OLD.id);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION notice_of_fleet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('device_target', 'fleet ' || OLD.application);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- A release never changes its fleet. If one did, neither version would say so.
-- +goose StatementBegin
CREATE FUNCTION notice_of_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('device_target', 'fleet ' || OLD.belongs_to__application);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER notice_device AFTER UPDATE OF id, uuid, device_name, belongs_to__application, is_frozen, is_pinned_on__release, should_be_operated_by__release, should_be_managed_by__release, target_version ON device
    FOR EACH ROW EXECUTE FUNCTION notice_of_device();
CREATE TRIGGER notice_device_gone AFTER DELETE ON device
    FOR EACH ROW EXECUTE FUNCTION notice_of_device();
CREATE TRIGGER notice_fleet AFTER UPDATE ON fleet_target
    FOR EACH ROW EXECUTE FUNCTION notice_of_fleet();
CREATE TRIGGER notice_fleet_gone AFTER DELETE ON fleet_target
    FOR EACH ROW EXECUTE FUNCTION notice_of_fleet();
CREATE TRIGGER notice_release AFTER UPDATE OF belongs_to__application ON "release"
    FOR EACH ROW EXECUTE FUNCTION notice_of_release();
