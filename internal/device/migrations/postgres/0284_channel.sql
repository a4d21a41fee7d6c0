-- +goose Up
-- How a device whose control channel is up proved who it is, and its address there.
ALTER TABLE device ADD COLUMN channel_identity TEXT COLLATE "C";
ALTER TABLE device ADD COLUMN channel_address TEXT COLLATE "C";
-- And how the device says that its channel is.
ALTER TABLE device ADD COLUMN channel_state TEXT COLLATE "C";
ALTER TABLE device ADD COLUMN channel_reason TEXT COLLATE "C";

-- Switches that end by themselves are few.
CREATE INDEX device_config_variable_until ON device_config_variable (id) WHERE name = 'ROADSTEAD_VPN_UNTIL';
