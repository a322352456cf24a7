-- The limits of the run's last start, in seconds since the epoch and in the user's currency; NULL without a limit.
ALTER TABLE run ADD COLUMN goal_experiments INTEGER;
ALTER TABLE run ADD COLUMN goal_until REAL;
ALTER TABLE run ADD COLUMN goal_max_cost REAL;
-- When the run ended; NULL while it continues, and in an older journal.
ALTER TABLE run ADD COLUMN ended_at REAL;
