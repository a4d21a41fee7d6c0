-- +goose Up
-- What a device should run is written in many tables. Each of them marks the device or the fleet whose target it is part of
-- with a new random version; the ETag of a target state is made of the two, so that a poll which ends in 304 reads one row.
-- Random, not counted: a database restored from a backup must not give an old version to a new state.
CREATE TABLE fleet_target (
    application BIGINT PRIMARY KEY REFERENCES application (id) ON DELETE CASCADE,
    version     TEXT COLLATE "C" NOT NULL
);
INSERT INTO fleet_target (application, version) SELECT id, new_version() FROM application;

-- Each function marks what a row of its tables belongs to: the new row, or the one that was deleted.

-- Tables with the fleet in their column application.
-- +goose StatementBegin
CREATE FUNCTION target_of_fleet_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE fleet_target SET version = new_version() WHERE application = changed.application;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Tables of a service.
-- +goose StatementBegin
CREATE FUNCTION target_of_service_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE fleet_target SET version = new_version() WHERE application = (SELECT application FROM service WHERE id = changed.service);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Releases. Only successful ones are ever a target; while one is being built nothing changes for a device.
-- +goose StatementBegin
CREATE FUNCTION target_of_release() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE fleet_target SET version = new_version() WHERE application = changed.belongs_to__application;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Images.
-- +goose StatementBegin
CREATE FUNCTION target_of_image() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE fleet_target SET version = new_version() WHERE application IN (
        SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.image = changed.id);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Tables of an image in a release.
-- +goose StatementBegin
CREATE FUNCTION target_of_image_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE fleet_target SET version = new_version() WHERE application IN (
        SELECT r.belongs_to__application FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release
        WHERE r.status = 'success' AND ri.id = changed.release_image);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Which images a release has.
-- +goose StatementBegin
CREATE FUNCTION target_of_release_image() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE fleet_target SET version = new_version() WHERE application IN (
        SELECT belongs_to__application FROM "release" WHERE status = 'success' AND id = changed.is_part_of__release);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Devices.
-- +goose StatementBegin
CREATE FUNCTION target_of_device() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE device SET target_version = new_version() WHERE id = changed.id;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Tables with the device in their column device.
-- +goose StatementBegin
CREATE FUNCTION target_of_device_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE device SET target_version = new_version() WHERE id = changed.device;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- Tables of a service on one device.
-- +goose StatementBegin
CREATE FUNCTION target_of_install_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed RECORD;
BEGIN
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE device SET target_version = new_version() WHERE id = (SELECT device FROM service_install WHERE id = changed.service_install);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION target_application_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fleet_target (application, version) VALUES (NEW.id, new_version());
    RETURN NULL;
END;
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION target_application() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE fleet_target SET version = new_version() WHERE application = NEW.id;
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER target_application_new AFTER INSERT ON application
    FOR EACH ROW EXECUTE FUNCTION target_application_new();
CREATE TRIGGER target_application AFTER UPDATE ON application
    FOR EACH ROW EXECUTE FUNCTION target_application();
CREATE TRIGGER target_fleet_env_new AFTER INSERT ON application_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_fleet_env AFTER UPDATE ON application_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_fleet_env_gone AFTER DELETE ON application_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_fleet_config_new AFTER INSERT ON application_config_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_fleet_config AFTER UPDATE ON application_config_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_fleet_config_gone AFTER DELETE ON application_config_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_service_env_new AFTER INSERT ON service_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_service_row();
CREATE TRIGGER target_service_env AFTER UPDATE ON service_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_service_row();
CREATE TRIGGER target_service_env_gone AFTER DELETE ON service_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_service_row();
CREATE TRIGGER target_service AFTER UPDATE ON service
    FOR EACH ROW EXECUTE FUNCTION target_of_fleet_row();
CREATE TRIGGER target_service_label_new AFTER INSERT ON service_label
    FOR EACH ROW EXECUTE FUNCTION target_of_service_row();
CREATE TRIGGER target_service_label AFTER UPDATE ON service_label
    FOR EACH ROW EXECUTE FUNCTION target_of_service_row();
CREATE TRIGGER target_service_label_gone AFTER DELETE ON service_label
    FOR EACH ROW EXECUTE FUNCTION target_of_service_row();
CREATE TRIGGER target_release AFTER UPDATE ON "release"
    FOR EACH ROW WHEN (OLD.status = 'success' OR NEW.status = 'success') EXECUTE FUNCTION target_of_release();
CREATE TRIGGER target_image AFTER UPDATE ON image
    FOR EACH ROW EXECUTE FUNCTION target_of_image();
CREATE TRIGGER target_image_label_new AFTER INSERT ON image_label
    FOR EACH ROW EXECUTE FUNCTION target_of_image_row();
CREATE TRIGGER target_image_label AFTER UPDATE ON image_label
    FOR EACH ROW EXECUTE FUNCTION target_of_image_row();
CREATE TRIGGER target_image_label_gone AFTER DELETE ON image_label
    FOR EACH ROW EXECUTE FUNCTION target_of_image_row();
CREATE TRIGGER target_image_env_new AFTER INSERT ON image_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_image_row();
CREATE TRIGGER target_image_env AFTER UPDATE ON image_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_image_row();
CREATE TRIGGER target_image_env_gone AFTER DELETE ON image_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_image_row();
CREATE TRIGGER target_release_image_new AFTER INSERT ON release_image
    FOR EACH ROW EXECUTE FUNCTION target_of_release_image();
CREATE TRIGGER target_release_image AFTER UPDATE ON release_image
    FOR EACH ROW EXECUTE FUNCTION target_of_release_image();
CREATE TRIGGER target_release_image_gone AFTER DELETE ON release_image
    FOR EACH ROW EXECUTE FUNCTION target_of_release_image();
CREATE TRIGGER target_device AFTER UPDATE OF device_name, uuid, belongs_to__application, is_pinned_on__release, is_frozen ON device
    FOR EACH ROW EXECUTE FUNCTION target_of_device();
CREATE TRIGGER target_device_env_new AFTER INSERT ON device_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
CREATE TRIGGER target_device_env AFTER UPDATE ON device_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
CREATE TRIGGER target_device_env_gone AFTER DELETE ON device_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
CREATE TRIGGER target_device_config_new AFTER INSERT ON device_config_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
CREATE TRIGGER target_device_config AFTER UPDATE ON device_config_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
CREATE TRIGGER target_device_config_gone AFTER DELETE ON device_config_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
CREATE TRIGGER target_device_service_env_new AFTER INSERT ON device_service_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_install_row();
CREATE TRIGGER target_device_service_env AFTER UPDATE ON device_service_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_install_row();
CREATE TRIGGER target_device_service_env_gone AFTER DELETE ON device_service_environment_variable
    FOR EACH ROW EXECUTE FUNCTION target_of_install_row();
CREATE TRIGGER target_service_install_gone AFTER DELETE ON service_install
    FOR EACH ROW EXECUTE FUNCTION target_of_device_row();
