-- +goose Up
-- Something that a device was told to do. road says how the device has it: over its control channel, or it took it from the queue itself.
-- boot is what the device said of its start when a reboot was sent. One that waits is not tried over the channel before try_at.
CREATE TABLE device_action (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at       TEXT NOT NULL,
    device           INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    is_made_by__user INTEGER REFERENCES "user" (id) ON DELETE SET NULL,
    verb             TEXT NOT NULL,
    service_name     TEXT,
    is_forced        INTEGER NOT NULL DEFAULT 0,
    lines            INTEGER NOT NULL DEFAULT 0,
    is_queued        INTEGER NOT NULL DEFAULT 1,
    state            TEXT NOT NULL CHECK (state IN ('queued', 'sent', 'done', 'failed', 'expired', 'cancelled')),
    message          TEXT,
    result           TEXT,
    expires_at       TEXT NOT NULL,
    try_at           TEXT NOT NULL,
    sent_at          TEXT,
    ended_at         TEXT,
    road             TEXT CHECK (road IN ('channel', 'queue')),
    boot             TEXT
);
CREATE INDEX device_action_device ON device_action (device, id);
CREATE INDEX device_action_open ON device_action (device, id) WHERE state IN ('queued', 'sent');
CREATE INDEX device_action_made ON device_action (created_at);
CREATE INDEX device_action_maker ON device_action (is_made_by__user);

-- Devices whose agents take actions from the queue, and what they last said of their start.
CREATE TABLE device_boot (
    device INTEGER PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    boot   TEXT NOT NULL
);
