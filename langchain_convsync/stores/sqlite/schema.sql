-- Format 1 of the store's file. Times are milliseconds on the store's clock. What users wrote is kept
-- as bytes (UTF-8, lone surrogates included).

CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE conversations (
    conversation TEXT PRIMARY KEY,
    turns INTEGER NOT NULL DEFAULT 0,
    debounce INTEGER NOT NULL DEFAULT 0,
    max_debounce INTEGER NOT NULL DEFAULT 0,
    snapshot BLOB,
    snapshot_until INTEGER,
    tenant BLOB, -- whose it is, once a turn knew
    noted BLOB, -- what its turns leave for the next ones
    acks BLOB, -- how far its last messages got: id, level, time, one a line
    expires INTEGER -- null while it has work
) STRICT;
CREATE INDEX remembered ON conversations (snapshot_until) WHERE snapshot_until IS NOT NULL;
CREATE INDEX idle ON conversations (expires) WHERE expires IS NOT NULL;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY, -- order of arrival; below 0 where it was put at the head of its inbox
    event_key TEXT NOT NULL UNIQUE,
    conversation TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'done', 'dead')),
    digest TEXT NOT NULL,
    source TEXT, -- where deliveries of the message that tell of other accounts or customers meet it
    facts TEXT NOT NULL DEFAULT '', -- what its deliveries told of both sides
    payload BLOB, -- null once it is done
    reason BLOB, -- why it is a dead letter
    outcome BLOB, -- what was said, as long as words are kept: until outcome_until
    outcome_until INTEGER,
    fact BLOB, -- what is told after that
    accepted_at INTEGER NOT NULL,
    accepted_by TEXT NOT NULL, -- tells a repeated call from another delivery
    starts INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    ended_by TEXT, -- epoch and token of the lease that committed it
    apart TEXT, -- its customer's names, where they could not be one conversation when it came
    expires INTEGER -- null unless it is done
) STRICT;
CREATE INDEX inbox ON events (conversation, seq) WHERE state = 'queued';
CREATE INDEX dead ON events (seq) WHERE state = 'dead';
CREATE INDEX twins ON events (source);
CREATE INDEX said ON events (outcome_until) WHERE outcome_until IS NOT NULL;
CREATE INDEX finished ON events (expires) WHERE expires IS NOT NULL;

CREATE TABLE calls ( -- of tools, in a turn that is not committed: kept with its head event
    event_key TEXT NOT NULL REFERENCES events (event_key) ON DELETE CASCADE,
    call TEXT NOT NULL,
    by TEXT NOT NULL, -- who began it
    result BLOB, -- null while it is not known
    PRIMARY KEY (event_key, call)
) STRICT;

CREATE TABLE queues (
    conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    queue TEXT NOT NULL CHECK (queue IN ('inbox', 'outbox', 'replies')),
    account TEXT NOT NULL,
    due INTEGER, -- null without work; after the lease while there is one
    token TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    until INTEGER, -- null once given back
    since INTEGER, -- when it was acquired, likewise
    not_before INTEGER NOT NULL DEFAULT 0,
    operation TEXT, -- the cursor: the operation at the head of the queue, once it was begun
    pos INTEGER, -- of an inbox: how many events at its head are held; 0 where one was amended
    sent INTEGER,
    tries INTEGER,
    note BLOB,
    echoes BLOB, -- of that operation since it was sent: one note a line
    anchor BLOB,
    last TEXT, -- the call that moved the queue last, to answer its repetition
    why BLOB, -- why its work waits, as the last release told it
    why_since INTEGER,
    slot TEXT, -- when the message of a token may be sent
    PRIMARY KEY (conversation, queue)
) STRICT;
CREATE INDEX ready ON queues (queue, account, due, conversation) WHERE due IS NOT NULL;
CREATE INDEX leased ON queues (token) WHERE until IS NOT NULL;
CREATE INDEX running ON queues (account, until) WHERE queue = 'inbox' AND until IS NOT NULL;

CREATE TABLE accounts ( -- those with work in a queue, and when each was served last, in microseconds
    queue TEXT NOT NULL,
    account TEXT NOT NULL,
    place INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (queue, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE account_names ( -- account keys, and which of them stand for one receiving side
    name TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    facts TEXT -- all that is known of the account, where the name is its own
) STRICT, WITHOUT ROWID;

CREATE TABLE operations (
    seq INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL,
    queue TEXT NOT NULL CHECK (queue IN ('outbox', 'replies')),
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    queued_at INTEGER,
    UNIQUE (conversation, queue, id)
) STRICT;
CREATE INDEX in_order ON operations (conversation, queue, seq);

CREATE TABLE dead_operations (
    seq INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    body BLOB NOT NULL,
    reason BLOB NOT NULL,
    died_at INTEGER NOT NULL,
    pos INTEGER,
    sent INTEGER,
    tries INTEGER,
    note BLOB
) STRICT;
CREATE INDEX dead_letters ON dead_operations (conversation, seq);

CREATE TABLE aliases (alias TEXT PRIMARY KEY, conversation TEXT NOT NULL, expires INTEGER NOT NULL)
STRICT, WITHOUT ROWID;
CREATE INDEX unused ON aliases (expires);
CREATE INDEX IF NOT EXISTS led ON aliases (conversation);

CREATE TABLE IF NOT EXISTS restrictions ( -- of accounts that send no replies
    account TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    why BLOB NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    by TEXT -- who tries whether it is over
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS paces ( -- of an account's messages of a kind
    account TEXT NOT NULL,
    kind TEXT NOT NULL,
    next INTEGER NOT NULL, -- when there is room for another one
    last INTEGER NOT NULL, -- when the last one went
    by TEXT NOT NULL, -- and which one that was
    PRIMARY KEY (account, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE pauses (conversation TEXT PRIMARY KEY, until INTEGER NOT NULL) -- given to a human
STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS over ON pauses (until);
