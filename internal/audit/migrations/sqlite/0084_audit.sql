-- +goose Up

-- Who did what. Rows refer to nothing: what they tell of may be gone.
CREATE TABLE audit_entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    act TEXT NOT NULL,
    result TEXT NOT NULL CHECK (result IN ('done', 'refused')),
    thing TEXT NOT NULL,
    thing_id INTEGER NOT NULL,
    thing_name TEXT NOT NULL,
    organization INTEGER NOT NULL,
    application INTEGER NOT NULL,
    about_user INTEGER NOT NULL,
    is_support INTEGER NOT NULL,
    detail TEXT,
    by_kind TEXT NOT NULL,
    by_user INTEGER NOT NULL,
    by_key INTEGER NOT NULL,
    by_session INTEGER NOT NULL,
    by_name TEXT NOT NULL,
    address TEXT NOT NULL,
    request TEXT NOT NULL
);
CREATE INDEX audit_entry_organization ON audit_entry (organization, id);
CREATE INDEX audit_entry_application ON audit_entry (application, id);
CREATE INDEX audit_entry_about ON audit_entry (about_user, id);
CREATE INDEX audit_entry_by ON audit_entry (by_user, id);
