-- +goose Up

-- The chain: entries are written in the transactions of their acts, and sealed soon after the commit: they get their place, a salt and the
-- hash of the chain up to them.
ALTER TABLE audit_entry ADD COLUMN seq INTEGER;
ALTER TABLE audit_entry ADD COLUMN salt TEXT;
ALTER TABLE audit_entry ADD COLUMN hash TEXT;
CREATE UNIQUE INDEX audit_entry_seq ON audit_entry (seq);
CREATE INDEX audit_entry_unsealed ON audit_entry (id) WHERE seq IS NULL;

-- Where the chain ends, and where it begins: what is older than first_seq was removed when its time was over.
CREATE TABLE audit_chain (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    first_hash TEXT NOT NULL
);
INSERT INTO audit_chain (id, seq, hash, first_seq, first_hash) VALUES (1, 0,
    '0000000000000000000000000000000000000000000000000000000000000000', 0,
    '0000000000000000000000000000000000000000000000000000000000000000');

-- What the signer said of the chain.
CREATE TABLE audit_checkpoint (
    seq INTEGER PRIMARY KEY,
    site TEXT NOT NULL,
    hash TEXT NOT NULL,
    signed_at TEXT NOT NULL,
    signed_by TEXT NOT NULL,
    signature TEXT NOT NULL
);

-- The public keys that it said it with.
CREATE TABLE audit_signer (
    id TEXT PRIMARY KEY,
    created_at TEXT NOT NULL,
    public_key TEXT NOT NULL
);

-- Nothing is changed but by sealing, and nothing removed but what is older than the chain's beginning, which moves forward only and not past
-- what the signer has signed. Who owns the database can drop these triggers: what shows that is the signature.
-- +goose StatementBegin
CREATE TRIGGER audit_entry_update BEFORE UPDATE ON audit_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit log is not changed') WHERE OLD.seq IS NOT NULL OR NEW.seq IS NULL
    OR NEW.id IS NOT OLD.id OR NEW.created_at IS NOT OLD.created_at OR NEW.act IS NOT OLD.act OR NEW.result IS NOT OLD.result OR NEW.thing IS NOT OLD.thing OR NEW.thing_id IS NOT OLD.thing_id OR NEW.thing_name IS NOT OLD.thing_name OR NEW.organization IS NOT OLD.organization OR NEW.application IS NOT OLD.application OR NEW.about_user IS NOT OLD.about_user OR NEW.is_support IS NOT OLD.is_support OR NEW.detail IS NOT OLD.detail OR NEW.by_kind IS NOT OLD.by_kind OR NEW.by_user IS NOT OLD.by_user OR NEW.by_key IS NOT OLD.by_key OR NEW.by_session IS NOT OLD.by_session OR NEW.by_name IS NOT OLD.by_name OR NEW.address IS NOT OLD.address OR NEW.request IS NOT OLD.request;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_entry_delete BEFORE DELETE ON audit_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit log is not removed from') WHERE OLD.seq IS NULL OR OLD.seq > (SELECT first_seq FROM audit_chain);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_chain_update BEFORE UPDATE ON audit_chain
BEGIN
    SELECT RAISE(ABORT, 'the audit log goes forward only') WHERE NEW.seq < OLD.seq OR NEW.first_seq < OLD.first_seq
    OR NEW.first_seq > OLD.first_seq AND NEW.first_seq > coalesce((SELECT max(seq) FROM audit_checkpoint), 0);
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_chain_delete BEFORE DELETE ON audit_chain
BEGIN
    SELECT RAISE(ABORT, 'the audit log goes forward only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoint_update BEFORE UPDATE ON audit_checkpoint
BEGIN
    SELECT RAISE(ABORT, 'the audit log is not changed');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoint_delete BEFORE DELETE ON audit_checkpoint
BEGIN
    SELECT RAISE(ABORT, 'the audit log is not removed from') WHERE OLD.seq >= (SELECT first_seq FROM audit_chain);
END;
-- +goose StatementEnd
