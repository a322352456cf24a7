-- Accidents: which measurements of a trial were set aside, and whether code that ran before failed once already.
ALTER TABLE trial ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;    -- measurements set aside: the next one is new work
ALTER TABLE trial ADD COLUMN disturbed INTEGER NOT NULL DEFAULT 0;  -- those set aside that may have met with an accident
ALTER TABLE trial ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;     -- failures of code that ran before, each asked about again
ALTER TABLE trial ADD COLUMN accident TEXT;                         -- what befell the last measurement set aside, in words
-- What the seeds of trials are drawn from; NULL in a run that is older than this.
ALTER TABLE run ADD COLUMN seed_key TEXT;
