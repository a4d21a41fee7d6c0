-- +goose Up

-- What the triggers of before do not see: rows that replace others, and rows that come with a place in the chain. Entries come without one,
-- and get one behind all others.
-- +goose StatementBegin
CREATE TRIGGER audit_entry_insert BEFORE INSERT ON audit_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit log is not changed') WHERE NEW.seq IS NOT NULL OR NEW.salt IS NOT NULL OR NEW.hash IS NOT NULL
    OR EXISTS (SELECT 1 FROM audit_entry WHERE id = NEW.id);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_entry_place BEFORE UPDATE ON audit_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit log is not changed') WHERE NEW.seq <= (SELECT seq FROM audit_chain);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_chain_insert BEFORE INSERT ON audit_chain
BEGIN
    SELECT RAISE(ABORT, 'the audit log goes forward only') WHERE EXISTS (SELECT 1 FROM audit_chain);
END;
-- +goose StatementEnd
-- A checkpoint that is there stays as it is, and to write it again is harmless.
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoint_insert BEFORE INSERT ON audit_checkpoint
BEGIN
    SELECT RAISE(IGNORE) WHERE EXISTS (SELECT 1 FROM audit_checkpoint WHERE seq = NEW.seq);
END;
-- +goose StatementEnd
