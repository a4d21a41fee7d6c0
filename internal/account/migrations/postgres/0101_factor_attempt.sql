-- +goose Up
-- Failed proofs of second factors, counted like failed logins.
CREATE TABLE factor_attempt (
    counter  TEXT COLLATE "C" NOT NULL CHECK (counter IN ('pair', 'address', 'account', 'known')),
    key      TEXT COLLATE "C" NOT NULL,
    failures BIGINT NOT NULL,
    last_at  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (counter, key)
);
CREATE INDEX factor_attempt_last ON factor_attempt (last_at);
