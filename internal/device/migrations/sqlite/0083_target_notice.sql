-- +goose Up
-- On PostgreSQL, changes of targets are told to the processes that remember them. On SQLite there is one, which asks each time.
SELECT 1;
