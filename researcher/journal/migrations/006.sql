-- Every question to the stronger model, written down with the most that it can cost before it is asked.
CREATE TABLE paid_call (
    id              INTEGER PRIMARY KEY,
    run             INTEGER NOT NULL REFERENCES run (id),
    after           INTEGER NOT NULL REFERENCES experiment (id),   -- the last one when it was asked
    why             TEXT NOT NULL,
    endpoint        TEXT NOT NULL,
    model           TEXT NOT NULL,
    cap             REAL NOT NULL,             -- of the run, as the owner said then
    worst           REAL NOT NULL,
    prompt_tokens   INTEGER,
    answer_tokens   INTEGER,
    money           REAL,                      -- NULL where nobody knows: then the worst counts
    fault           TEXT
);
