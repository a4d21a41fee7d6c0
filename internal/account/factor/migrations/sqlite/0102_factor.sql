-- +goose Up
-- Second factors of people. A seed is sealed with a key made of the pepper; until a code has confirmed it, it counts for nothing.
CREATE TABLE totp (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    "user" INTEGER NOT NULL UNIQUE REFERENCES "user" (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    seed TEXT NOT NULL,
    is_confirmed INTEGER NOT NULL DEFAULT 0,
    last_step INTEGER NOT NULL DEFAULT 0,  -- of the last code that was taken: none is taken twice
    last_used_at TEXT
);

-- Recovery codes, as hashes under the pepper. One that is used is gone.
CREATE TABLE recovery_code (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    "user" INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    code_hash TEXT NOT NULL,
    UNIQUE ("user", code_hash)
);

CREATE TABLE passkey (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    "user" INTEGER NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    name TEXT NOT NULL,
    credential TEXT NOT NULL UNIQUE,       -- its id, as clients write it
    public_key TEXT NOT NULL,              -- SubjectPublicKeyInfo
    sign_count INTEGER NOT NULL,
    is_way_in INTEGER NOT NULL,            -- it is found without a user name and knows its user: it can stand for a password
    is_suspect INTEGER NOT NULL DEFAULT 0, -- its count went back: there may be a copy
    last_used_at TEXT
);
CREATE INDEX passkey_user ON passkey ("user");

-- Challenges that were answered; none is answered twice. Those that were only asked are nowhere.
CREATE TABLE used_challenge (
    challenge_hash TEXT PRIMARY KEY,
    expires_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX used_challenge_expiry ON used_challenge (expires_at);
