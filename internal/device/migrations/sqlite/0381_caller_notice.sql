-- +goose Up
-- On PostgreSQL, changes of devices are told to the processes that remember whom their keys stand for. On SQLite there is one, which asks each time.
SELECT 1;
