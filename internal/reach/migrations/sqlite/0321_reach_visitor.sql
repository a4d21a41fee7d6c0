-- +goose Up
-- Visitors of public addresses whom nobody asked who they are, by device, hour and where they come from: a network of IPv6, or nothing for all
-- those who are too many. A row goes when the audit log was told of it. told says that it was told of the first of them.
CREATE TABLE reach_visitor (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    hour         TEXT NOT NULL,
    device       INTEGER NOT NULL,
    address      TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    uuid         TEXT NOT NULL,
    application  INTEGER NOT NULL,
    organization INTEGER NOT NULL,
    port         INTEGER NOT NULL,
    visits       INTEGER NOT NULL DEFAULT 1,
    bytes_in     INTEGER NOT NULL DEFAULT 0,
    bytes_out    INTEGER NOT NULL DEFAULT 0,
    told         INTEGER NOT NULL DEFAULT 0,
    UNIQUE (device, hour, address)
);
CREATE INDEX reach_visitor_untold ON reach_visitor (id) WHERE told = 0;
CREATE INDEX reach_visitor_hour ON reach_visitor (hour);
ALTER TABLE reach_permit ADD COLUMN visitor INTEGER NOT NULL DEFAULT 0;
CREATE INDEX reach_permit_visitor ON reach_permit (visitor) WHERE visitor <> 0;
