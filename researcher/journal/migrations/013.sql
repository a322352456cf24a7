-- The digest of the data without their unseen slice, which a secret of the data folder makes; NULL in an older journal.
ALTER TABLE run ADD COLUMN without_unseen_sha256 TEXT;
