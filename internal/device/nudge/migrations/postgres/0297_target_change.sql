-- +goose Up
-- Devices and fleets whose target has changed since the devices with a control channel were last told. serial counts the changes: a row that
-- is there is written all the same, so that nobody removes it before the change is durable.
CREATE TABLE target_change (
    kind   TEXT COLLATE "C" NOT NULL CHECK (kind IN ('device', 'fleet')),
    thing  BIGINT NOT NULL,
    serial BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, thing)
);

-- +goose StatementBegin
CREATE FUNCTION change_of_fleet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO target_change (kind, thing) VALUES ('fleet', NEW.application)
        ON CONFLICT (kind, thing) DO UPDATE SET serial = target_change.serial + 1;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION change_of_device() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO target_change (kind, thing) VALUES ('device', NEW.id)
        ON CONFLICT (kind, thing) DO UPDATE SET serial = target_change.serial + 1;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER change_fleet AFTER UPDATE OF version ON fleet_target
    FOR EACH ROW EXECUTE FUNCTION change_of_fleet();
CREATE TRIGGER change_device AFTER UPDATE OF target_version ON device
    FOR EACH ROW WHEN (NEW.is_connected_to_vpn = 1) EXECUTE FUNCTION change_of_device();
-- What changed while its channel was down, a device learns when it is up.
CREATE TRIGGER change_channel AFTER UPDATE OF is_connected_to_vpn ON device
    FOR EACH ROW WHEN (NEW.is_connected_to_vpn = 1 AND OLD.is_connected_to_vpn = 0) EXECUTE FUNCTION change_of_device();
