-- +goose Up
-- Only writes of what a target state is made of make a new version of it: a fleet's note or a release's log costs its devices
-- nothing. The releases of a device's host and supervisor are part of its target from now on.
DROP TRIGGER target_device;
DROP TRIGGER target_application;
DROP TRIGGER target_release;
DROP TRIGGER target_image;

-- +goose StatementBegin
CREATE TRIGGER target_device AFTER UPDATE OF device_name, uuid, belongs_to__application, is_pinned_on__release, is_frozen, should_be_operated_by__release, should_be_managed_by__release ON device
BEGIN
    UPDATE device SET target_version = lower(hex(randomblob(8))) WHERE id = NEW.id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_application AFTER UPDATE OF app_name, uuid, is_of__class, is_host, should_be_running__release ON application
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_release AFTER UPDATE OF "commit", composition, status, belongs_to__application ON "release"
WHEN OLD.status = 'success' OR NEW.status = 'success'
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application = NEW.belongs_to__application;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER target_image AFTER UPDATE OF is_a_build_of__service, is_stored_at__image_location, content_hash, contract, status ON image
BEGIN
    UPDATE fleet_target SET version = lower(hex(randomblob(8))) WHERE application IN (SELECT r.belongs_to__application
        FROM release_image ri JOIN "release" r ON r.id = ri.is_part_of__release WHERE r.status = 'success' AND ri.image = NEW.id);
END;
-- +goose StatementEnd
