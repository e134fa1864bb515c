-- Format 1 of the store's file. Times are milliseconds on the store's clock. What users wrote is kept
-- as bytes (UTF-8, lone surrogates included).

CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE conversations (
    cid TEXT PRIMARY KEY,
    turns INTEGER NOT NULL DEFAULT 0,
    quiet INTEGER NOT NULL DEFAULT 0,
    max_quiet INTEGER NOT NULL DEFAULT 0,
    snapshot BLOB,
    snapshot_until INTEGER,
    expires INTEGER -- null while it has work
) STRICT;
CREATE INDEX idle ON conversations (expires) WHERE expires IS NOT NULL;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY, -- order of arrival
    eid TEXT NOT NULL UNIQUE,
    cid TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead')),
    digest TEXT NOT NULL,
    payload BLOB, -- null once it is done
    outcome BLOB,
    accepted_at INTEGER NOT NULL,
    accepted_by TEXT NOT NULL, -- tells a repeated call from another delivery
    starts INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    ended_by TEXT, -- epoch and token of the lease that committed it
    expires INTEGER -- null unless it is done
) STRICT;
CREATE INDEX inbox ON events (cid, seq) WHERE state = 'queued';
CREATE INDEX dead ON events (seq) WHERE state = 'dead';
CREATE INDEX finished ON events (expires) WHERE expires IS NOT NULL;

CREATE TABLE lanes (
    cid TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    lane TEXT NOT NULL CHECK (lane IN ('turn', 'write', 'say')),
    account TEXT NOT NULL,
    due INTEGER, -- null without work; after the lease while there is one
    token TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    until INTEGER, -- null once given back
    not_before INTEGER NOT NULL DEFAULT 0,
    op TEXT, -- the cursor: the operation at the head of the queue, once it was begun
    pos INTEGER,
    sent INTEGER,
    tries INTEGER,
    note BLOB,
    heard BLOB, -- of that operation since it was sent: one note a line
    anchor BLOB,
    last TEXT, -- the call that moved the queue last, to answer its repetition
    PRIMARY KEY (cid, lane)
) STRICT;
CREATE INDEX ready ON lanes (lane, account, due, cid) WHERE due IS NOT NULL;
CREATE INDEX leased ON lanes (token) WHERE until IS NOT NULL;
CREATE INDEX running ON lanes (account, until) WHERE lane = 'turn' AND until IS NOT NULL;

CREATE TABLE accounts ( -- those with work in a lane, and when each was served last, in microseconds
    lane TEXT NOT NULL,
    account TEXT NOT NULL,
    place INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (lane, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE ops (
    seq INTEGER PRIMARY KEY,
    cid TEXT NOT NULL,
    lane TEXT NOT NULL CHECK (lane IN ('write', 'say')),
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (cid, lane, id)
) STRICT;
CREATE INDEX queue ON ops (cid, lane, seq);

CREATE TABLE parked (
    seq INTEGER PRIMARY KEY,
    cid TEXT NOT NULL,
    lane TEXT NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    reason BLOB NOT NULL,
    parked_at INTEGER NOT NULL,
    pos INTEGER,
    sent INTEGER,
    tries INTEGER,
    note BLOB
) STRICT;
CREATE INDEX set_aside ON parked (cid, seq);

CREATE TABLE aliases (alias TEXT PRIMARY KEY, cid TEXT NOT NULL, expires INTEGER NOT NULL)
STRICT, WITHOUT ROWID;
CREATE INDEX unused ON aliases (expires);

CREATE TABLE pauses (cid TEXT PRIMARY KEY, until INTEGER NOT NULL) -- given to a human
STRICT, WITHOUT ROWID;
