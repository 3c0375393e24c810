"""The tables of the vector store, apart from the code that needs numpy: the start of a server checks the file."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE collections (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a name made anew is another collection
        name TEXT NOT NULL UNIQUE,
        dimension INTEGER NOT NULL,
        metric TEXT NOT NULL,
        embedder TEXT,
        created_at INTEGER NOT NULL,
        sequence INTEGER NOT NULL DEFAULT 0    -- the number of the last change
    );
    CREATE TABLE points (
        collection INTEGER NOT NULL,
        id TEXT NOT NULL,
        sequence INTEGER NOT NULL,             -- the change that wrote it
        vector BLOB NOT NULL,                  -- float32, little-endian
        payload TEXT NOT NULL,
        expires_at INTEGER,
        UNIQUE (collection, id)
    );
    CREATE INDEX points_changed ON points (collection, sequence);
    CREATE INDEX points_ending ON points (collection, expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE deletions (
        collection INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (collection, sequence, id)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE collections ADD COLUMN index_kind TEXT NOT NULL DEFAULT 'auto';
    ALTER TABLE collections ADD COLUMN quantization TEXT NOT NULL DEFAULT 'none';
    ALTER TABLE collections ADD COLUMN stored TEXT NOT NULL DEFAULT 'float32';
    ALTER TABLE collections ADD COLUMN points INTEGER NOT NULL DEFAULT 0;  -- rows, also those whose time is over
    ALTER TABLE collections ADD COLUMN text_key INTEGER;  -- last point whose words are in texts_<id>; NULL: no table
    ALTER TABLE collections ADD COLUMN snapshot TEXT;      -- the folder of its kept index; NULL: none
    UPDATE collections SET points = (SELECT count(*) FROM points WHERE collection = collections.id);
    ALTER TABLE points RENAME TO points_before;
    CREATE TABLE points (
        key INTEGER PRIMARY KEY AUTOINCREMENT,  -- of what one change wrote: a replaced point has a new, greater one
        collection INTEGER NOT NULL,
        id TEXT NOT NULL,
        expires_at INTEGER,
        payload TEXT NOT NULL,
        vector BLOB NOT NULL,                   -- float32 or float16, little-endian
        UNIQUE (collection, id)
    );
    INSERT INTO points (collection, id, expires_at, payload, vector)
        SELECT collection, id, expires_at, payload, vector FROM points_before ORDER BY collection, sequence;
    DROP TABLE points_before;
    CREATE INDEX points_changed ON points (collection);  -- by key, as every index of SQLite ends with it
    CREATE INDEX points_ending ON points (collection, expires_at) WHERE expires_at IS NOT NULL;
    DROP TABLE deletions;
    CREATE TABLE deletions (
        collection INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        key INTEGER NOT NULL,
        PRIMARY KEY (collection, sequence, key)
    ) WITHOUT ROWID;
    """,
)
