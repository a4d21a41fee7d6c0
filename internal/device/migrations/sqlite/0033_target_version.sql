-- +goose Up
-- What a device should run is written in many tables. Each of them marks the device or the fleet whose target it is part of
-- with a new random version; the ETag of a target state is made of the two, so that a poll which ends in 304 reads one row.
-- Random, not counted: a database restored from a backup must not give an old version to a new state.
CREATE TABLE fleet_target (
    application INTEGER PRIMARY KEY REFERENCES application (id) ON DELETE CASCADE,
    version     TEXT NOT NULL
);
INSERT INTO fleet_target (application, version) SELECT id, lower(hex(randomblob(8))) FROM application;


-- Fleets.

-- +goose StatementBegin
CREATE TRIGGER target_application_new AFTER INSERT ON application
BEGIN
    INSERT INTO fleet_target (application, version) VALUES (NEW.id, lower(hex(randomblob(8))));
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_application AFTER UPDATE ON application
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_fleet_env_new AFTER INSERT ON application_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_fleet_env AFTER UPDATE ON application_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_fleet_env_gone AFTER DELETE ON application_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = OLD.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_fleet_config_new AFTER INSERT ON application_config_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_fleet_config AFTER UPDATE ON application_config_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_fleet_config_gone AFTER DELETE ON application_config_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = OLD.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_env_new AFTER INSERT ON service_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = (SELECT application FROM service WHERE id = NEW.service);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_env AFTER UPDATE ON service_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = (SELECT application FROM service WHERE id = NEW.service);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_env_gone AFTER DELETE ON service_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = (SELECT application FROM service WHERE id = OLD.service);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service AFTER UPDATE ON service
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_label_new AFTER INSERT ON service_label
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = (SELECT application FROM service WHERE id = NEW.service);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_label AFTER UPDATE ON service_label
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = (SELECT application FROM service WHERE id = NEW.service);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_label_gone AFTER DELETE ON service_label
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = (SELECT application FROM service WHERE id = OLD.service);
END;
-- +goose StatementEnd

-- Releases. Only successful ones are ever a target; while one is being built nothing changes for a device.

-- +goose StatementBegin
CREATE TRIGGER target_release AFTER UPDATE ON "release"
WHEN OLD.status = 'success' OR NEW.status = 'success'
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.belongs_to__application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image AFTER UPDATE ON image
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.image = NEW.id);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image_label_new AFTER INSERT ON image_label
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = NEW.release_image);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image_label AFTER UPDATE ON image_label
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = NEW.release_image);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image_label_gone AFTER DELETE ON image_label
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = OLD.release_image);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image_env_new AFTER INSERT ON image_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = NEW.release_image);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image_env AFTER UPDATE ON image_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = NEW.release_image);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image_env_gone AFTER DELETE ON image_environment_variable
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = OLD.release_image);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_release_image_new AFTER INSERT ON release_image
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT belongs_to__application FROM "release" WHERE status = 'success' AND id = NEW.is_part_of__release);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_release_image AFTER UPDATE ON release_image
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT belongs_to__application FROM "release" WHERE status = 'success' AND id = NEW.is_part_of__release);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_release_image_gone AFTER DELETE ON release_image
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT belongs_to__application FROM "release" WHERE status = 'success' AND id = OLD.is_part_of__release);
END;
-- +goose StatementEnd

-- Devices.

-- +goose StatementBegin
CREATE TRIGGER target_device AFTER UPDATE OF device_name, uuid, belongs_to__application, is_pinned_on__release, is_frozen ON device
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = NEW.id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_env_new AFTER INSERT ON device_environment_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = NEW.device;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_env AFTER UPDATE ON device_environment_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = NEW.device;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_env_gone AFTER DELETE ON device_environment_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = OLD.device;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_config_new AFTER INSERT ON device_config_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = NEW.device;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_config AFTER UPDATE ON device_config_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = NEW.device;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_config_gone AFTER DELETE ON device_config_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = OLD.device;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_service_env_new AFTER INSERT ON device_service_environment_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = (SELECT device FROM service_install WHERE id = NEW.service_install);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_service_env AFTER UPDATE ON device_service_environment_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = (SELECT device FROM service_install WHERE id = NEW.service_install);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_device_service_env_gone AFTER DELETE ON device_service_environment_variable
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = (SELECT device FROM service_install WHERE id = OLD.service_install);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_service_install_gone AFTER DELETE ON service_install
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = OLD.device;
END;
-- +goose StatementEnd
