-- +goose Up
-- Only writes of what a target state is made of make a new version of it: a fleet's note or a release's log costs its devices
-- nothing. The releases of a device's host and supervisor are part of its target from now on.
DROP TRIGGER target_device ON device;
DROP TRIGGER target_application ON application;
DROP TRIGGER target_release ON "release";
DROP TRIGGER target_image ON image;

CREATE TRIGGER target_device AFTER UPDATE OF device_name, uuid, belongs_to__application, is_pinned_on__release, is_frozen, should_be_operated_by__release, should_be_managed_by__release ON device
    FOR EACH ROW EXECUTE FUNCTION target_of_device();
CREATE TRIGGER target_application AFTER UPDATE OF app_name, uuid, is_of__class, is_host, should_be_running__release ON application
    FOR EACH ROW EXECUTE FUNCTION target_application();
CREATE TRIGGER target_release AFTER UPDATE OF "commit", composition, status, belongs_to__application ON "release"
    FOR EACH ROW WHEN (OLD.status = 'success' OR NEW.status = 'success') EXECUTE FUNCTION target_of_release();
CREATE TRIGGER target_image AFTER UPDATE OF is_a_build_of__service, is_stored_at__image_location, content_hash, contract, status ON image
    FOR EACH ROW EXECUTE FUNCTION target_of_image();
