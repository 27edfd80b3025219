"""The tables of a journal. Any SQLite tool reads them, on a local disk also while the run goes on:

    sqlite3 journal.sqlite "SELECT trained_step, task_index FROM groups WHERE state = 'trained' ORDER BY group_id"

A BLOB is a little-endian array without header, one entry per response token unless said otherwise; in Python
`numpy.frombuffer(blob, "<f4")`. Nothing in the file is pickled.
"""

VERSION = 3  # of the tables, in PRAGMA user_version; 1 had no draws, 2 no rejections

INT, FLOAT, BOOL = "<i4", "<f4", "|b1"  # the dtypes of the blobs

SCHEMA = """
CREATE TABLE IF NOT EXISTS lineages (
    lineage INTEGER PRIMARY KEY,  -- 1 for the first start of the run, one more for every resume
    version INTEGER NOT NULL,     -- the checkpoint it started from; 0 is the untrained policy
    time REAL NOT NULL            -- seconds since 1970
);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    lineage INTEGER NOT NULL,
    time REAL NOT NULL,           -- seconds since 1970
    kind TEXT NOT NULL,           -- the class in orchestration/events.py
    json TEXT NOT NULL            -- its fields
);
CREATE TABLE IF NOT EXISTS groups (
    lineage INTEGER NOT NULL,
    group_id INTEGER NOT NULL,    -- order of admission; after a resume numbers continue from the checkpoint
    task_index INTEGER NOT NULL,
    task_id TEXT,                 -- NULL until drawn
    admitted_version INTEGER NOT NULL, -- the published version when the last attempt started
    oldest_version INTEGER,       -- of the weights that drew one of its tokens; NULL until drawn
    state TEXT NOT NULL,          -- running, scoring, scored, queued, training, trained, rolled_back
    attempts INTEGER NOT NULL,
    worker TEXT NOT NULL,         -- of the last attempt; 'the journal' where an earlier process had drawn it
    trained_step INTEGER,         -- the step that consumed it, which led from version trained_step to trained_step + 1
    reward_mean REAL,             -- NULL until judged
    PRIMARY KEY (lineage, group_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS trained_once ON groups (task_index) WHERE state = 'trained';
CREATE INDEX IF NOT EXISTS by_step ON groups (lineage, trained_step);
CREATE INDEX IF NOT EXISTS by_worker ON groups (lineage, worker) WHERE state = 'running';

-- Tasks that no step consumed, because all their responses got the same reward and the next task took their place
-- (algorithm.refill). A resume from an older checkpoint deletes those that it draws again.
CREATE TABLE IF NOT EXISTS rejections (
    task_index INTEGER PRIMARY KEY,
    lineage INTEGER NOT NULL,
    group_id INTEGER NOT NULL,    -- the group that gave it up
    attempt INTEGER NOT NULL,
    trained_version INTEGER NOT NULL, -- steps trained when it was rejected
    checkpoint INTEGER,           -- the first one that no longer owes it; NULL: none yet
    reward_mean REAL NOT NULL
);

-- What was drawn for a task, as long as it is kept (run.keep_rollouts). One draw per task: a later attempt replaces it.
CREATE TABLE IF NOT EXISTS draws (
    task_index INTEGER PRIMARY KEY,
    lineage INTEGER NOT NULL,     -- with group_id and attempt: whose it is
    group_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    oldest_version INTEGER NOT NULL, -- of the weights that drew one of its tokens
    newest_version INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    prompt TEXT NOT NULL,
    prompt_ids BLOB NOT NULL      -- int32, one per prompt token
);
CREATE TABLE IF NOT EXISTS rollouts (
    task_index INTEGER NOT NULL REFERENCES draws ON DELETE CASCADE,
    sample INTEGER NOT NULL,      -- 0 .. run.group_size - 1
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,  -- stop, length
    spans TEXT NOT NULL,          -- JSON [[version, start, end], ...]: which weights drew tokens start .. end - 1
    response_ids BLOB NOT NULL,     -- int32
    sampler_logprobs BLOB NOT NULL, -- float32, nats, under the distribution really sampled from
    temperatures BLOB NOT NULL,     -- float32
    entropies BLOB NOT NULL,        -- float32, nats, at T = 1
    policy_drawn BLOB,            -- bool, 0 where something else than the policy drew; NULL: all 1
    kept_ids BLOB,                -- int32, the tokens that truncation left, position after position; NULL: it is off
    kept_counts BLOB,             -- int32, how many of them belong to each position; 0: the whole vocabulary
    head_changes BLOB,            -- bool, a learned temperature head drew anew; NULL: there is none
    head_logprobs BLOB,           -- float32, nats, of the head's action
    stale_kv INTEGER NOT NULL,    -- 1: tokens behind an update attended to keys and values of older weights
    drafted_tokens INTEGER NOT NULL,
    accepted_histogram TEXT NOT NULL, -- JSON [j]: verification steps that kept j drafts
    seconds REAL NOT NULL,        -- from submission to the last token
    PRIMARY KEY (task_index, sample)
);
CREATE TABLE IF NOT EXISTS verdicts (
    task_index INTEGER NOT NULL REFERENCES draws ON DELETE CASCADE,
    sample INTEGER NOT NULL,
    id TEXT NOT NULL,
    reward REAL NOT NULL,         -- the verifier's own, in [0, 1]
    status TEXT NOT NULL,         -- scored, timeout, resource, malformed, error
    components TEXT NOT NULL,     -- JSON {name: value}
    detail TEXT NOT NULL,
    seconds REAL NOT NULL,        -- spent judging
    PRIMARY KEY (task_index, sample)
) WITHOUT ROWID;
"""
