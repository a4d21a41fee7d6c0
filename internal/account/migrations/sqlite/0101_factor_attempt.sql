-- +goose Up
-- Failed proofs of second factors, counted like failed logins.
CREATE TABLE factor_attempt (
    counter  TEXT NOT NULL CHECK (counter IN ('pair', 'address', 'account', 'known')),
    key      TEXT NOT NULL,
    failures INTEGER NOT NULL,
    last_at  TEXT NOT NULL,
    PRIMARY KEY (counter, key)
) WITHOUT ROWID;
CREATE INDEX factor_attempt_last ON factor_attempt (last_at);
