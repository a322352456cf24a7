-- The fingerprint of a candidate's change: the same edit on other code is known again.
ALTER TABLE experiment ADD COLUMN change TEXT;
CREATE INDEX experiment_by_change ON experiment (change);
