-- The metric whose scores the run compares, and whether the script claims it; NULL in an older journal: val_bpb, measured.
ALTER TABLE run ADD COLUMN metric_name TEXT;
ALTER TABLE run ADD COLUMN metric_direction TEXT;
ALTER TABLE run ADD COLUMN metric_unit TEXT;
ALTER TABLE run ADD COLUMN degree TEXT;
