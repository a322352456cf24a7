-- The journal: what was proposed, measured and decided. Complete at birth: later versions fill columns, not tables.
-- Times are seconds since the epoch. A number that was not measured is NULL.

CREATE TABLE run (
    id              INTEGER PRIMARY KEY,
    tag             TEXT NOT NULL UNIQUE,
    profile         TEXT NOT NULL,
    budget          REAL NOT NULL,             -- of a trial, in the profile's clock
    branch          TEXT NOT NULL,
    base_commit     TEXT NOT NULL,
    data_sha256     TEXT NOT NULL,
    seed            INTEGER NOT NULL,          -- every other seed of the run is drawn from it
    incumbent       INTEGER REFERENCES experiment (id),
    confirmed       INTEGER REFERENCES experiment (id),
    paused          TEXT,                      -- why, in words; NULL when running
    price_per_hour  REAL,                      -- of the machine
    price_per_kwh   REAL,
    price_per_mtoken REAL,                     -- a million LLM tokens
    created_at      REAL NOT NULL
);

CREATE TABLE experiment (
    id              INTEGER PRIMARY KEY,
    run             INTEGER NOT NULL REFERENCES run (id),
    number          INTEGER NOT NULL,          -- 0 is the baseline
    parent          INTEGER REFERENCES experiment (id),
    proposer        TEXT,                      -- NULL for the baseline
    title           TEXT NOT NULL,
    hypothesis      TEXT NOT NULL,
    proposal        TEXT,                      -- JSON
    request         TEXT REFERENCES request (id),
    source          TEXT,                      -- the whole candidate train.py; NULL when rejected
    fingerprint     TEXT,
    added_lines     INTEGER,
    state           TEXT NOT NULL CHECK (state IN ('proposed', 'committed', 'measuring', 'decided', 'applied')),
    commit_sha      TEXT,
    outcome         TEXT,
    decision        TEXT CHECK (decision IN ('keep', 'discard', 'crash')),
    reason          TEXT,
    score           REAL,
    margin          REAL,
    sigma           REAL,
    llm_endpoint    TEXT,
    llm_model       TEXT,
    llm_calls       INTEGER,
    llm_prompt_tokens INTEGER,
    llm_answer_tokens INTEGER,
    llm_s           REAL,
    proposed_at     REAL NOT NULL,
    decided_at      REAL,
    applied_at      REAL,
    UNIQUE (run, number)
);
CREATE UNIQUE INDEX one_open_experiment ON experiment (run) WHERE state <> 'applied';
CREATE INDEX experiment_by_fingerprint ON experiment (run, fingerprint);

CREATE TABLE confirmation (
    id              INTEGER PRIMARY KEY,
    run             INTEGER NOT NULL REFERENCES run (id),
    kind            TEXT NOT NULL CHECK (kind IN ('claim', 'recheck')),
    head            INTEGER NOT NULL REFERENCES experiment (id),
    base            INTEGER REFERENCES experiment (id),    -- of a recheck: what the run fell back to
    pairs           INTEGER NOT NULL,                      -- trials of each side
    state           TEXT NOT NULL CHECK (state IN ('measuring', 'decided', 'applied')),
    verdict         TEXT CHECK (verdict IN ('confirmed', 'rolled_back', 'holds', 'fails')),
    reason          TEXT,
    gain            REAL,
    threshold       REAL,
    sigma           REAL,
    head_score      REAL,
    base_score      REAL,
    started_at      REAL NOT NULL,
    decided_at      REAL,
    applied_at      REAL
);
CREATE UNIQUE INDEX one_open_confirmation ON confirmation (run) WHERE state <> 'applied';

CREATE TABLE trial (
    id              INTEGER PRIMARY KEY,
    run             INTEGER NOT NULL REFERENCES run (id),
    experiment      INTEGER NOT NULL REFERENCES experiment (id),   -- whose candidate is measured
    confirmation    INTEGER REFERENCES confirmation (id),          -- which check asked for it
    kind            TEXT NOT NULL,
    number          INTEGER NOT NULL,          -- within the experiment
    attempt         INTEGER NOT NULL,
    faults          INTEGER NOT NULL,          -- attempts lost to the machine, preemptions not counted
    seed            INTEGER NOT NULL,
    score_to_beat   REAL,
    state           TEXT NOT NULL CHECK (state IN ('queued', 'finished')),
    outcome         TEXT,
    reason          TEXT,
    val_bpb         REAL,
    heldout_bpb     REAL,
    wall_s          REAL,
    memory_mib      REAL,                      -- peak: of the GPU where there is one, else of the process tree
    result          TEXT,                      -- the whole TrialResult as JSON
    queued_at       REAL NOT NULL,
    finished_at     REAL,
    UNIQUE (experiment, number)
);
CREATE INDEX trial_by_state ON trial (run, state);

CREATE TABLE request (
    id              TEXT PRIMARY KEY,          -- made by the client: asked twice, done once
    kind            TEXT NOT NULL,
    body            TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'refused')),
    answer          TEXT NOT NULL,
    received_at     REAL NOT NULL,
    done_at         REAL
);
