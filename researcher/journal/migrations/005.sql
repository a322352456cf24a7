-- Since when the run could be at work: its start, the last start of a researcher, the end of the last pause.
ALTER TABLE run ADD COLUMN going_since REAL;
