-- +goose Up
-- On PostgreSQL, changes of devices' keys are told to the processes that remember whom they stand for. On SQLite there is one, which asks each time.
SELECT 1;
