-- +goose Up
-- Letters to people that are to be sent. What one says, a link that works among it, is sealed, and gone when the letter is; its row
-- stays for an hour, so that nobody gets too many.
CREATE TABLE letter (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    recipient  TEXT NOT NULL,
    sender     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    sealed     TEXT,
    state      TEXT NOT NULL CHECK (state IN ('waiting', 'sent', 'failed')),
    attempts   INTEGER NOT NULL DEFAULT 0,
    next_at    TEXT NOT NULL,
    until      TEXT NOT NULL,
    why        TEXT
);
CREATE INDEX letter_next ON letter (state, next_at);
CREATE INDEX letter_recipient ON letter (recipient, kind, created_at);
CREATE INDEX letter_kind ON letter (kind, created_at);
