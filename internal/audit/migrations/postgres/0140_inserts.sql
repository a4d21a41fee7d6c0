-- +goose Up

-- What the triggers of before do not see: rows that come with a place in the chain, and tables that are emptied at once. Entries come without a
-- place, and get one behind all others.
-- +goose StatementBegin
CREATE FUNCTION audit_entry_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq IS NOT NULL OR NEW.salt IS NOT NULL OR NEW.hash IS NOT NULL THEN
        RAISE EXCEPTION 'the audit log is not changed';
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_entry_insert BEFORE INSERT ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_entry_insert();
-- +goose StatementBegin
CREATE FUNCTION audit_entry_place() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq <= (SELECT seq FROM audit_chain) THEN
        RAISE EXCEPTION 'the audit log is not changed';
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_entry_place BEFORE UPDATE ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_entry_place();
-- +goose StatementBegin
CREATE FUNCTION audit_chain_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM audit_chain) THEN
        RAISE EXCEPTION 'the audit log goes forward only';
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_chain_insert BEFORE INSERT ON audit_chain FOR EACH ROW EXECUTE FUNCTION audit_chain_insert();
-- A checkpoint that is there stays as it is, and to write it again is harmless.
-- +goose StatementBegin
CREATE FUNCTION audit_checkpoint_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM audit_checkpoint WHERE seq = NEW.seq) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_checkpoint_insert BEFORE INSERT ON audit_checkpoint FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_insert();
-- +goose StatementBegin
CREATE FUNCTION audit_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is not removed from';
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_entry_truncate BEFORE TRUNCATE ON audit_entry FOR EACH STATEMENT EXECUTE FUNCTION audit_truncate();
CREATE TRIGGER audit_chain_truncate BEFORE TRUNCATE ON audit_chain FOR EACH STATEMENT EXECUTE FUNCTION audit_truncate();
CREATE TRIGGER audit_checkpoint_truncate BEFORE TRUNCATE ON audit_checkpoint FOR EACH STATEMENT EXECUTE FUNCTION audit_truncate();
CREATE TRIGGER audit_signer_truncate BEFORE TRUNCATE ON audit_signer FOR EACH STATEMENT EXECUTE FUNCTION audit_truncate();
