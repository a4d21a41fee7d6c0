-- +goose Up
-- Processes of the api role remember whom a device's key stands for. Whoever changes such a key tells them, once the transaction is committed. What is
-- not listed here decides nothing of it.

-- +goose StatementBegin
CREATE FUNCTION notice_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('device_caller', 'key ' || OLD.id);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER notice_key AFTER UPDATE OF id, kind, key_hash, is_of__actor, expiry_date, is_for_some_fleets, is_created_by__user, verbs, channels, networks, is_for_some_devices ON api_key
    FOR EACH ROW WHEN (OLD.kind = 'device') EXECUTE FUNCTION notice_of_key();
CREATE TRIGGER notice_key_gone AFTER DELETE ON api_key
    FOR EACH ROW WHEN (OLD.kind = 'device') EXECUTE FUNCTION notice_of_key();
