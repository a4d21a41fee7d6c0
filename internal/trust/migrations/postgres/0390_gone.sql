-- +goose Up
-- Fleets that were deleted while devices that went from them had still to ask for the words that let them go. Their trust is kept under the number that they had,
-- until the last of these devices has come, or is deleted: so nothing of it hangs on the fleet by reference.
CREATE TABLE trust_gone (
    application BIGINT PRIMARY KEY NOT NULL,
    created_at  TEXT COLLATE "C" NOT NULL,
    uuid        TEXT COLLATE "C" NOT NULL,
    slug        TEXT COLLATE "C" NOT NULL
);

ALTER TABLE trust_fleet DROP CONSTRAINT trust_fleet_application_fkey;
ALTER TABLE trust_file DROP CONSTRAINT trust_file_application_fkey;
ALTER TABLE trust_leave DROP CONSTRAINT trust_leave_application_fkey;
