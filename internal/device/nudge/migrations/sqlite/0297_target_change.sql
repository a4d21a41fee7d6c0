-- +goose Up
-- Devices and fleets whose target has changed since the devices with a control channel were last told. serial counts the changes: a row that
-- is there is written all the same, so that nobody removes it before the change is durable.
CREATE TABLE target_change (
    kind   TEXT    NOT NULL CHECK (kind IN ('device', 'fleet')),
    thing  INTEGER NOT NULL,
    serial INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, thing)
);

-- +goose StatementBegin
CREATE TRIGGER change_fleet AFTER UPDATE OF version ON fleet_target
BEGIN
    INSERT INTO target_change (kind, thing) VALUES ('fleet', NEW.application) ON CONFLICT (kind, thing) DO UPDATE SET serial = serial + 1;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER change_device AFTER UPDATE OF target_version ON device WHEN NEW.is_connected_to_vpn = 1
BEGIN
    INSERT INTO target_change (kind, thing) VALUES ('device', NEW.id) ON CONFLICT (kind, thing) DO UPDATE SET serial = serial + 1;
END;
-- +goose StatementEnd

-- What changed while its channel was down, a device learns when it is up.
-- +goose StatementBegin
CREATE TRIGGER change_channel AFTER UPDATE OF is_connected_to_vpn ON device WHEN NEW.is_connected_to_vpn = 1 AND OLD.is_connected_to_vpn = 0
BEGIN
    INSERT INTO target_change (kind, thing) VALUES ('device', NEW.id) ON CONFLICT (kind, thing) DO UPDATE SET serial = serial + 1;
END;
-- +goose StatementEnd
