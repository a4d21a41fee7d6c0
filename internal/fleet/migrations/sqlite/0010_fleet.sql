-- +goose Up
CREATE TABLE cpu_architecture (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    slug TEXT NOT NULL UNIQUE
);

CREATE TABLE device_type (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    slug                    TEXT    NOT NULL UNIQUE,
    name                    TEXT    NOT NULL,
    is_of__cpu_architecture INTEGER NOT NULL REFERENCES cpu_architecture (id),
    logo                    TEXT,
    contract                TEXT,
    is_private              INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX device_type_architecture ON device_type (is_of__cpu_architecture);

CREATE TABLE device_type_alias (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    device_type             INTEGER NOT NULL REFERENCES device_type (id) ON DELETE CASCADE,
    is_referenced_by__alias TEXT    NOT NULL UNIQUE
);
CREATE INDEX device_type_alias_device_type ON device_type_alias (device_type);

CREATE TABLE application_type (
    id                       INTEGER PRIMARY KEY AUTOINCREMENT,
    name                     TEXT    NOT NULL,
    slug                     TEXT    NOT NULL UNIQUE,
    description              TEXT,
    supports_web_url         INTEGER NOT NULL DEFAULT 0,
    supports_multicontainer  INTEGER NOT NULL DEFAULT 0,
    supports_gateway_mode    INTEGER NOT NULL DEFAULT 0,
    needs__os_version_range  TEXT,
    requires_payment         INTEGER NOT NULL DEFAULT 0,
    is_legacy                INTEGER NOT NULL DEFAULT 0,
    maximum_device_count     INTEGER
);

-- A fleet. The table "release" comes with a later migration of the same start-up; SQLite resolves the name at the first write.
-- The actor is deleted with the fleet in one transaction, in either order.
CREATE TABLE application (
    id                          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at                  TEXT    NOT NULL,
    actor                       INTEGER NOT NULL UNIQUE REFERENCES actor (id) DEFERRABLE INITIALLY DEFERRED,
    should_track_latest_release INTEGER NOT NULL DEFAULT 1,
    is_of__class                TEXT    NOT NULL DEFAULT 'fleet' CHECK (is_of__class IN ('fleet', 'block', 'app')),
    organization                INTEGER NOT NULL REFERENCES organization (id),
    app_name                    TEXT    NOT NULL,
    slug                        TEXT    NOT NULL UNIQUE,
    is_for__device_type         INTEGER NOT NULL REFERENCES device_type (id),
    should_be_running__release  INTEGER REFERENCES "release" (id) ON DELETE SET NULL,
    application_type            INTEGER NOT NULL REFERENCES application_type (id),
    is_host                     INTEGER NOT NULL DEFAULT 0,
    is_archived                 INTEGER NOT NULL DEFAULT 0,
    uuid                        TEXT    NOT NULL UNIQUE,
    is_public                   INTEGER NOT NULL DEFAULT 0,
    is_stored_at__repository_url TEXT,
    UNIQUE (app_name, organization)
);
CREATE INDEX application_organization ON application (organization);
CREATE INDEX application_device_type ON application (is_for__device_type);
CREATE INDEX application_target ON application (should_be_running__release);
CREATE INDEX application_application_type ON application (application_type);

CREATE TABLE service (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at   TEXT    NOT NULL,
    application  INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    service_name TEXT    NOT NULL,
    UNIQUE (application, service_name)
);

CREATE TABLE application_environment_variable (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    name        TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    UNIQUE (application, name)
);

CREATE TABLE application_config_variable (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    name        TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    UNIQUE (application, name)
);

CREATE TABLE build_environment_variable (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at  TEXT    NOT NULL,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    name        TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    UNIQUE (application, name)
);

CREATE TABLE service_environment_variable (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT    NOT NULL,
    service    INTEGER NOT NULL REFERENCES service (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    UNIQUE (service, name)
);

CREATE TABLE service_label (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT    NOT NULL,
    service    INTEGER NOT NULL REFERENCES service (id) ON DELETE CASCADE,
    label_name TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    UNIQUE (service, label_name)
);

CREATE TABLE application_tag (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    application INTEGER NOT NULL REFERENCES application (id) ON DELETE CASCADE,
    tag_key     TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    UNIQUE (application, tag_key)
);

-- Who may act on which fleet: the members of the organization that owns it. Other grants join this view as they come.
CREATE VIEW user__has_direct_access_to__application AS
SELECT m.id * 4294967296 + a.id AS id,
       m."user"                 AS "user",
       a.id                     AS has_direct_access_to__application
FROM application AS a
JOIN organization_membership AS m ON m.is_member_of__organization = a.organization;
