-- What kind of cause a pause has; NULL while the run goes on, and for a pause that is older than this.
ALTER TABLE run ADD COLUMN pause_cause TEXT;
