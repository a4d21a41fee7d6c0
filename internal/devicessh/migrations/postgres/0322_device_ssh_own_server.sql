-- +goose Up
-- The host keys of devices whose SSH server is none of ours: nobody vouches for them, so the first that was seen is remembered.
CREATE TABLE device_ssh_host_key (
    device     BIGINT PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    created_at TEXT COLLATE "C" NOT NULL,
    public_key TEXT COLLATE "C" NOT NULL
);
-- The key with which the gateway enters such a device, for the permission's one session; empty: a certificate was signed.
ALTER TABLE device_ssh_grant ADD COLUMN public_key TEXT COLLATE "C" NOT NULL DEFAULT '';
