-- +goose Up
-- Every report writes its device's row, and some the rows of its installs. When the new version of a row finds room on the page of
-- the old one, no index is touched; a full page leaves none.
ALTER TABLE device SET (fillfactor = 60);
ALTER TABLE image_install SET (fillfactor = 80);

-- Few devices are open to support; all the others were in the index without a date.
DROP INDEX device_support;
CREATE INDEX device_support ON device (is_accessible_by_support_until__date) WHERE is_accessible_by_support_until__date IS NOT NULL;
