-- +goose Up

-- Lists of devices are shown by name, page by page.
CREATE INDEX device_name ON device (device_name, id);
