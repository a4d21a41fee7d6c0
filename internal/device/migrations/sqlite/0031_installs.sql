-- +goose Up
CREATE TABLE service_install (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    device            INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    installs__service INTEGER NOT NULL REFERENCES service (id) ON DELETE CASCADE,
    UNIQUE (device, installs__service)
);
CREATE INDEX service_install_service ON service_install (installs__service);

CREATE TABLE device_service_environment_variable (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    service_install INTEGER NOT NULL REFERENCES service_install (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    value           TEXT NOT NULL,
    UNIQUE (service_install, name)
);

CREATE TABLE image_install (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at              TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    device                  INTEGER NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    installs__image         INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    is_provided_by__release INTEGER NOT NULL REFERENCES "release" (id) ON DELETE CASCADE,
    install_date            TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    download_progress       INTEGER,
    status                  TEXT NOT NULL,
    UNIQUE (device, installs__image)
);
CREATE INDEX image_install_image ON image_install (installs__image);
CREATE INDEX image_install_release ON image_install (is_provided_by__release);
CREATE INDEX image_install_deleted ON image_install (install_date) WHERE status = 'deleted';
