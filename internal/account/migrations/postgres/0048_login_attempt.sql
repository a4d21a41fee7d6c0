-- +goose Up
-- Failed logins, by account, address and both, and the addresses from which a user has logged in. Keys are keyed hashes: what
-- people type as a user name, a password now and then, is not kept.
CREATE TABLE login_attempt (
    counter  TEXT COLLATE "C" NOT NULL CHECK (counter IN ('pair', 'address', 'account', 'known')),
    key      TEXT COLLATE "C" NOT NULL,
    failures BIGINT NOT NULL,
    last_at  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (counter, key)
);
CREATE INDEX login_attempt_last ON login_attempt (last_at);
