-- +goose Up

-- What a key is limited to: verbs (bits, see internal/access) instead of a level, channels (bits) and networks (prefixes, one space between).
ALTER TABLE api_key ADD COLUMN verbs INTEGER NOT NULL DEFAULT 511;
ALTER TABLE api_key ADD COLUMN channels INTEGER NOT NULL DEFAULT 15;
ALTER TABLE api_key ADD COLUMN networks TEXT;
UPDATE api_key SET verbs = CASE max_level WHEN 1 THEN 1 WHEN 2 THEN 31 WHEN 3 THEN 127 ELSE 511 END;
ALTER TABLE api_key DROP COLUMN max_level;
ALTER TABLE api_key ADD COLUMN last_used_from TEXT; -- address of the last use that was written down

-- The tags of fleets that a key is for, beside those of api_key_fleet: whichever fleet carries one of them at the time.
CREATE TABLE api_key_tag (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    api_key INTEGER NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    tag_key TEXT NOT NULL,
    value TEXT, -- NULL: any
    UNIQUE (api_key, tag_key, value)
);

-- On which day a user's key last did what needs a verb.
CREATE TABLE api_key_use (
    api_key INTEGER NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    verb INTEGER NOT NULL,
    last_on TEXT NOT NULL,
    PRIMARY KEY (api_key, verb)
);
