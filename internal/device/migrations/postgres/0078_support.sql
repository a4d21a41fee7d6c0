-- +goose Up

-- The devices that are open to support are found without looking at the others.
CREATE INDEX device_support ON device (is_accessible_by_support_until__date);
