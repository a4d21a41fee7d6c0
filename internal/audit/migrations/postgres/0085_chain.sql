-- +goose Up

-- The chain: entries are written in the transactions of their acts, and sealed soon after the commit: they get their place, a salt and the
-- hash of the chain up to them.
ALTER TABLE audit_entry ADD COLUMN seq BIGINT;
ALTER TABLE audit_entry ADD COLUMN salt TEXT COLLATE "C";
ALTER TABLE audit_entry ADD COLUMN hash TEXT COLLATE "C";
CREATE UNIQUE INDEX audit_entry_seq ON audit_entry (seq);
CREATE INDEX audit_entry_unsealed ON audit_entry (id) WHERE seq IS NULL;

-- Where the chain ends, and where it begins: what is older than first_seq was removed when its time was over.
CREATE TABLE audit_chain (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    first_seq BIGINT NOT NULL,
    first_hash TEXT COLLATE "C" NOT NULL
);
INSERT INTO audit_chain (id, seq, hash, first_seq, first_hash) VALUES (1, 0,
    '0000000000000000000000000000000000000000000000000000000000000000', 0,
    '0000000000000000000000000000000000000000000000000000000000000000');

-- What the signer said of the chain.
CREATE TABLE audit_checkpoint (
    seq BIGINT PRIMARY KEY,
    site TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    signed_at TEXT COLLATE "C" NOT NULL,
    signed_by TEXT COLLATE "C" NOT NULL,
    signature TEXT COLLATE "C" NOT NULL
);

-- The public keys that it said it with.
CREATE TABLE audit_signer (
    id TEXT COLLATE "C" PRIMARY KEY,
    created_at TEXT COLLATE "C" NOT NULL,
    public_key TEXT COLLATE "C" NOT NULL
);

-- Nothing is changed but by sealing, and nothing removed but what is older than the chain's beginning, which moves forward only and not past
-- what the signer has signed. Who owns the database can drop these triggers: what shows that is the signature.
-- +goose StatementBegin
CREATE FUNCTION audit_entry_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seq IS NOT NULL OR NEW.seq IS NULL
        OR NEW.id IS DISTINCT FROM OLD.id OR NEW.created_at IS DISTINCT FROM OLD.created_at OR NEW.act IS DISTINCT FROM OLD.act OR NEW.result IS DISTINCT FROM OLD.result OR NEW.thing IS DISTINCT FROM OLD.thing OR NEW.thing_id IS DISTINCT FROM OLD.thing_id OR NEW.thing_name IS DISTINCT FROM OLD.thing_name OR NEW.organization IS DISTINCT FROM OLD.organization OR NEW.application IS DISTINCT FROM OLD.application OR NEW.about_user IS DISTINCT FROM OLD.about_user OR NEW.is_support IS DISTINCT FROM OLD.is_support OR NEW.detail IS DISTINCT FROM OLD.detail OR NEW.by_kind IS DISTINCT FROM OLD.by_kind OR NEW.by_user IS DISTINCT FROM OLD.by_user OR NEW.by_key IS DISTINCT FROM OLD.by_key OR NEW.by_session IS DISTINCT FROM OLD.by_session OR NEW.by_name IS DISTINCT FROM OLD.by_name OR NEW.address IS DISTINCT FROM OLD.address OR NEW.request IS DISTINCT FROM OLD.request THEN
        RAISE EXCEPTION 'the audit log is not changed';
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_entry_update BEFORE UPDATE ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_entry_update();
-- +goose StatementBegin
CREATE FUNCTION audit_entry_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seq IS NULL OR OLD.seq > (SELECT first_seq FROM audit_chain) THEN
        RAISE EXCEPTION 'the audit log is not removed from';
    END IF;
    RETURN OLD;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_entry_delete BEFORE DELETE ON audit_entry FOR EACH ROW EXECUTE FUNCTION audit_entry_delete();
-- +goose StatementBegin
CREATE FUNCTION audit_chain_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq < OLD.seq OR NEW.first_seq < OLD.first_seq
        OR NEW.first_seq > OLD.first_seq AND NEW.first_seq > coalesce((SELECT max(seq) FROM audit_checkpoint), 0) THEN
        RAISE EXCEPTION 'the audit log goes forward only';
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_chain_update BEFORE UPDATE ON audit_chain FOR EACH ROW EXECUTE FUNCTION audit_chain_update();
-- +goose StatementBegin
CREATE FUNCTION audit_chain_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log goes forward only';
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_chain_delete BEFORE DELETE ON audit_chain FOR EACH ROW EXECUTE FUNCTION audit_chain_delete();
-- +goose StatementBegin
CREATE FUNCTION audit_checkpoint_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is not changed';
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_checkpoint_update BEFORE UPDATE ON audit_checkpoint FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_update();
-- +goose StatementBegin
CREATE FUNCTION audit_checkpoint_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seq >= (SELECT first_seq FROM audit_chain) THEN
        RAISE EXCEPTION 'the audit log is not removed from';
    END IF;
    RETURN OLD;
END;
$$;
-- +goose StatementEnd
CREATE TRIGGER audit_checkpoint_delete BEFORE DELETE ON audit_checkpoint FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_delete();
