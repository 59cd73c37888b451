-- What the first songstream made, as SQLite keeps it.
CREATE TABLE sessions (
    uuid VARCHAR(36) NOT NULL,
    station VARCHAR(63) NOT NULL,
    encoding VARCHAR(16) NOT NULL,
    sample_rate_hz INTEGER NOT NULL,
    n_channels INTEGER NOT NULL,
    channel INTEGER,
    capture_start_ms BIGINT NOT NULL,
    writer_epoch INTEGER NOT NULL,
    committed_sequence_number BIGINT NOT NULL,
    committed_sample BIGINT NOT NULL,
    origin_sample BIGINT NOT NULL,
    heard_until_ms BIGINT NOT NULL,
    input_sample BIGINT NOT NULL,
    state BLOB,
    finished BOOLEAN NOT NULL,
    PRIMARY KEY (uuid)
);
CREATE INDEX ix_sessions_station ON sessions (station);
CREATE TABLE songs (
    uid VARCHAR(36) NOT NULL,
    station VARCHAR(63) NOT NULL,
    session VARCHAR(36) NOT NULL,
    start_ms BIGINT NOT NULL,
    end_ms BIGINT NOT NULL,
    onset BIGINT NOT NULL,
    "offset" BIGINT NOT NULL,
    sample_rate_hz INTEGER NOT NULL,
    type_id VARCHAR(16) NOT NULL,
    kind VARCHAR(8) NOT NULL,
    similarity FLOAT NOT NULL,
    novelty_score FLOAT NOT NULL,
    p_value FLOAT NOT NULL,
    is_novel BOOLEAN NOT NULL,
    forced_cut BOOLEAN NOT NULL,
    snr_db FLOAT NOT NULL,
    bundle VARCHAR(64) NOT NULL,
    PRIMARY KEY (uid)
);
CREATE INDEX songs_by_time ON songs (start_ms, uid);
CREATE INDEX songs_by_station ON songs (station, start_ms, type_id, is_novel, kind);
CREATE INDEX songs_by_session ON songs (session, start_ms);
CREATE TABLE effort (
    station VARCHAR(63) NOT NULL,
    hour_ms BIGINT NOT NULL,
    recorded_s FLOAT NOT NULL,
    PRIMARY KEY (station, hour_ms)
);
PRAGMA user_version = 1;
