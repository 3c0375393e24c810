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
    """,
)
