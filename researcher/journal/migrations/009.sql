-- Scores on text that nobody has written, and what a claim gained there; NULL where it was not scored.
ALTER TABLE trial ADD COLUMN unseen_bpb REAL;
ALTER TABLE confirmation ADD COLUMN unseen_gain REAL;
