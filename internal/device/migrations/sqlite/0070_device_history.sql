-- +goose Up
-- What carries the control channel of a device; empty until there is one.
CREATE TABLE service_instance (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    ip_address TEXT NOT NULL
);
ALTER TABLE device ADD COLUMN is_managed_by__service_instance INTEGER REFERENCES service_instance (id) ON DELETE SET NULL;
CREATE INDEX device_service_instance ON device (is_managed_by__service_instance) WHERE is_managed_by__service_instance IS NOT NULL;

-- That a person said of the device that it is online, and when they said so last; heartbeats stand beside it.
ALTER TABLE device ADD COLUMN said_online INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN said_online_at TEXT;
-- Counts the reports that changed something: of two that were compared with the same rows, the second is compared again.
ALTER TABLE device ADD COLUMN report_serial INTEGER NOT NULL DEFAULT 0;

-- What a device was, from created_at to end_timestamp. It is a record: it keeps the ids of what has been deleted since, and goes
-- with the fleet that the device was in.
CREATE TABLE device_history (
    id                              INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at                      TEXT NOT NULL,
    end_timestamp                   TEXT,
    is_created_by__actor            INTEGER,
    is_ended_by__actor              INTEGER,
    tracks__device                  INTEGER NOT NULL,
    tracks__actor                   INTEGER NOT NULL,
    uuid                            TEXT NOT NULL,
    belongs_to__application         INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    is_active                       INTEGER NOT NULL,
    is_running__release             INTEGER,
    is_pinned_on__release           INTEGER,
    is_managed_by__service_instance INTEGER,
    os_version                      TEXT,
    os_variant                      TEXT,
    supervisor_version              TEXT,
    is_of__device_type              INTEGER NOT NULL,
    cpu_id                          TEXT,
    should_be_managed_by__release   INTEGER
);
CREATE UNIQUE INDEX device_history_now ON device_history (tracks__device) WHERE end_timestamp IS NULL;
CREATE INDEX device_history_device ON device_history (tracks__device, created_at);
CREATE INDEX device_history_uuid ON device_history (uuid, created_at);
CREATE INDEX device_history_application ON device_history (belongs_to__application, created_at);
CREATE INDEX device_history_ended ON device_history (end_timestamp) WHERE end_timestamp IS NOT NULL;

INSERT INTO device_history (created_at, tracks__device, tracks__actor, uuid, belongs_to__application, is_active, is_running__release,
    is_pinned_on__release, os_version, os_variant, supervisor_version, is_of__device_type, cpu_id, should_be_managed_by__release)
SELECT modified_at, id, actor, uuid, belongs_to__application, is_active, is_running__release, is_pinned_on__release, os_version,
    os_variant, supervisor_version, is_of__device_type, cpu_id, should_be_managed_by__release
FROM device;
