-- One row a bucket. `version` stands before `data`, so that reading versions leaves the blobs on disk.
CREATE TABLE bucket (
    space TEXT NOT NULL,
    id INTEGER NOT NULL,
    version BLOB NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (space, id)
);

CREATE TABLE document (
    name TEXT NOT NULL PRIMARY KEY,
    version BLOB NOT NULL,
    data BLOB NOT NULL
);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    reason TEXT NOT NULL
);

-- One row. `identity` names this set of data; `schema` is the number of the last step that was run.
CREATE TABLE meta (
    schema INTEGER NOT NULL,
    created INTEGER NOT NULL,
    identity TEXT NOT NULL
);

INSERT INTO meta VALUES (0, CAST(strftime('%s', 'now') AS INTEGER), lower(hex(randomblob(8))));
