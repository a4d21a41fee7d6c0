-- +goose Up
-- A release that a client makes row by row, of images that it built itself, has a row here. What it pushes is in quarantine: in
-- repositories that no row of an image names any more once finalised_at is set. From then on a builder owes it a promotion: it looks
-- at what is there, and copies it into the repositories that the images were given meanwhile. emptied_at is when what the
-- quarantine held was thrown away.
CREATE TABLE deployment (
    "release"    BIGINT PRIMARY KEY REFERENCES "release" (id) ON DELETE CASCADE,
    created_at   TEXT COLLATE "C" NOT NULL,
    finalised_at TEXT COLLATE "C",
    attempts     BIGINT NOT NULL DEFAULT 0,
    emptied_at   TEXT COLLATE "C"
);
CREATE INDEX deployment_open ON deployment ("release") WHERE emptied_at IS NULL;

-- One image's place in quarantine. It belongs to no release until its maker says to which.
CREATE TABLE quarantine (
    image      BIGINT PRIMARY KEY REFERENCES image (id) ON DELETE CASCADE,
    "release"  BIGINT REFERENCES deployment ("release") ON DELETE CASCADE,
    created_at TEXT COLLATE "C" NOT NULL,
    made_by    BIGINT NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    repository TEXT COLLATE "C" NOT NULL UNIQUE
);
CREATE INDEX quarantine_release ON quarantine ("release");
CREATE INDEX quarantine_maker ON quarantine (made_by);
CREATE INDEX quarantine_loose ON quarantine (created_at) WHERE "release" IS NULL;

-- The location of an image is the name of a place in quarantine: it is not for devices.
ALTER TABLE image ADD COLUMN is_quarantined BIGINT NOT NULL DEFAULT 0;
