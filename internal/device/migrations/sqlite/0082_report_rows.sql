-- +goose Up
-- Few devices are open to support; all the others were in the index without a date.
DROP INDEX device_support;
CREATE INDEX device_support ON device (is_accessible_by_support_until__date) WHERE is_accessible_by_support_until__date IS NOT NULL;
