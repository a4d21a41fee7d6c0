-- +goose Up
-- From which network a login waits for its code: an address of IPv4, a /64 of IPv6. What waits now is over in ten minutes.
ALTER TABLE device_login ADD COLUMN network TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX device_login_network ON device_login (network);
DROP INDEX device_login_address;
