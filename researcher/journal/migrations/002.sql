-- Why the night is over, in words; NULL while it goes on.
ALTER TABLE run ADD COLUMN ended TEXT;
