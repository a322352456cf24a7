-- How fast the machine was around a trial, and what came of it when that was not as usual.
ALTER TABLE trial ADD COLUMN before_s REAL;                        -- one fixed piece of work, just before
ALTER TABLE trial ADD COLUMN after_s REAL;                         -- and just after
ALTER TABLE trial ADD COLUMN differed INTEGER NOT NULL DEFAULT 0;  -- attempts on a machine out of line
ALTER TABLE trial ADD COLUMN machine TEXT;                         -- how the last of those differed, in words
CREATE INDEX trial_by_difference ON trial (differed);               -- a result's pages are many to read past
