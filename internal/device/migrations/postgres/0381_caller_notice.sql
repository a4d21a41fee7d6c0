-- +goose Up
-- Processes of the api role remember which device a key stands for. Whoever changes what they remember of the device tells them, once the transaction is
-- committed. What is not listed here decides nothing of it.

-- +goose StatementBegin
CREATE FUNCTION notice_of_caller() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('device_caller', 'device ' || OLD.id);
    RETURN NULL;
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER notice_caller AFTER UPDATE OF id, actor, uuid, belongs_to__application, is_frozen ON device
    FOR EACH ROW EXECUTE FUNCTION notice_of_caller();
CREATE TRIGGER notice_caller_gone AFTER DELETE ON device
    FOR EACH ROW EXECUTE FUNCTION notice_of_caller();
