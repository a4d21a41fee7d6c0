-- +goose Up
CREATE TABLE device (
    id                                   INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at                           TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    modified_at                          TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    actor                                INTEGER NOT NULL UNIQUE REFERENCES actor (id),
    uuid                                 TEXT NOT NULL UNIQUE,
    device_name                          TEXT NOT NULL,
    note                                 TEXT,
    local_id                             TEXT,
    is_of__device_type                   INTEGER NOT NULL REFERENCES device_type (id),
    belongs_to__application              INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    belongs_to__user                     INTEGER REFERENCES "user" (id) ON DELETE SET NULL,
    is_pinned_on__release                INTEGER REFERENCES "release" (id),
    is_running__release                  INTEGER REFERENCES "release" (id) ON DELETE SET NULL,
    should_be_operated_by__release       INTEGER REFERENCES "release" (id) ON DELETE SET NULL,
    should_be_managed_by__release        INTEGER REFERENCES "release" (id) ON DELETE SET NULL,
    is_active                            INTEGER NOT NULL DEFAULT 0,
    is_frozen                            INTEGER NOT NULL DEFAULT 0,
    is_web_accessible                    INTEGER NOT NULL DEFAULT 0,
    is_connected_to_vpn                  INTEGER NOT NULL DEFAULT 0,
    last_vpn_event                       TEXT,
    -- Heartbeats: when the device was last heard, when the next sign of life is due and until when it counts as online.
    last_seen                            TEXT,
    heartbeat_due                        TEXT,
    heartbeat_until                      TEXT,
    online_since                         TEXT,
    is_locked_until__date                TEXT,
    is_accessible_by_support_until__date TEXT,
    -- What the device says of itself.
    status                               TEXT,
    os_version                           TEXT,
    os_variant                           TEXT,
    supervisor_version                   TEXT,
    provisioning_progress                INTEGER,
    provisioning_state                   TEXT,
    download_progress                    INTEGER,
    public_address                       TEXT,
    ip_address                           TEXT,
    mac_address                          TEXT,
    memory_usage                         INTEGER,
    memory_total                         INTEGER,
    storage_block_device                 TEXT,
    storage_usage                        INTEGER,
    storage_total                        INTEGER,
    cpu_usage                            INTEGER,
    cpu_temp                             INTEGER,
    cpu_id                               TEXT,
    is_undervolted                       INTEGER NOT NULL DEFAULT 0,
    update_status                        TEXT,
    last_update_status_event             TEXT,
    unsupported_features                 TEXT,
    metrics_at                           TEXT,
    custom_latitude                      TEXT,
    custom_longitude                     TEXT,
    -- Changes with every change of what the device should run, see 0033.
    target_version                       TEXT NOT NULL DEFAULT (lower(hex(randomblob(8))))
);
CREATE INDEX device_application ON device (belongs_to__application);
CREATE INDEX device_device_type ON device (is_of__device_type);
CREATE INDEX device_pinned ON device (is_pinned_on__release) WHERE is_pinned_on__release IS NOT NULL;
CREATE INDEX device_running ON device (is_running__release) WHERE is_running__release IS NOT NULL;
CREATE INDEX device_operated ON device (should_be_operated_by__release) WHERE should_be_operated_by__release IS NOT NULL;
CREATE INDEX device_managed ON device (should_be_managed_by__release) WHERE should_be_managed_by__release IS NOT NULL;
CREATE INDEX device_user ON device (belongs_to__user) WHERE belongs_to__user IS NOT NULL;

CREATE TABLE device_environment_variable (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    device     INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    UNIQUE (device, name)
);
CREATE TABLE device_config_variable (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    device     INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    UNIQUE (device, name)
);
CREATE TABLE device_tag (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    device     INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    tag_key    TEXT NOT NULL,
    value      TEXT NOT NULL,
    UNIQUE (device, tag_key)
);
