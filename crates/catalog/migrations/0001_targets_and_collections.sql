-- The columns of the specification first, in its order and with its lengths and defaults; ours below them.
-- Timestamps are RFC 3339 text in UTC with milliseconds, JSON is text, UUIDs are 36 characters: all compare as they sort.

CREATE TABLE metric_targets (
    id                VARCHAR(36)  NOT NULL PRIMARY KEY
                      DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)
                               || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
    target_id         VARCHAR(100) NOT NULL UNIQUE CHECK (length(target_id) BETWEEN 1 AND 100),
    target_url        VARCHAR(500) NOT NULL CHECK (length(target_url) <= 500),
    source_type       VARCHAR(50)  NOT NULL CHECK (length(source_type) <= 50),
    scrape_config     TEXT         NOT NULL,
    labels            TEXT,
    health_status     VARCHAR(20)  NOT NULL DEFAULT 'unknown' CHECK (length(health_status) <= 20),
    enabled           BOOLEAN      NOT NULL DEFAULT TRUE,
    created_at        TEXT         NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),

    source_id         VARCHAR(100) NOT NULL DEFAULT '' CHECK (length(source_id) <= 100),
    collection_method VARCHAR(50)  NOT NULL DEFAULT 'PULL_SCRAPING' CHECK (length(collection_method) <= 50),
    origin            VARCHAR(200) NOT NULL DEFAULT 'api' CHECK (length(origin) <= 200),
    request           TEXT,
    filters           TEXT,
    retention_policy  TEXT,
    limits            TEXT,
    version           BIGINT       NOT NULL DEFAULT 1,
    updated_at        TEXT         NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    deleted_at        TEXT,
    deletion          TEXT,
    checksum          BIGINT       NOT NULL DEFAULT 0
);

CREATE INDEX metric_targets_source ON metric_targets (source_id);

-- No foreign key: a push that nobody registered is recorded under its source id.
CREATE TABLE collection_jobs (
    id                     VARCHAR(36)  NOT NULL PRIMARY KEY
                           DEFAULT (lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2)
                                    || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))),
    job_id                 VARCHAR(100) NOT NULL UNIQUE CHECK (length(job_id) BETWEEN 1 AND 100),
    target_id              VARCHAR(100) NOT NULL CHECK (length(target_id) <= 100),
    collection_method      VARCHAR(50)  NOT NULL CHECK (length(collection_method) <= 50),
    status                 VARCHAR(20)  NOT NULL CHECK (length(status) <= 20),
    metrics_collected      BIGINT       NOT NULL DEFAULT 0,
    collection_duration_ms DOUBLE PRECISION,
    error_details          TEXT,
    created_at             TEXT         NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),

    source_id              VARCHAR(100) NOT NULL DEFAULT '' CHECK (length(source_id) <= 100),
    health_status          VARCHAR(20)  NOT NULL DEFAULT 'unknown',
    collections            BIGINT       NOT NULL DEFAULT 1,
    samples_stored         BIGINT       NOT NULL DEFAULT 0,
    samples_refused        BIGINT       NOT NULL DEFAULT 0,
    window_start           TEXT,
    updated_at             TEXT         NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);

CREATE INDEX collection_jobs_target ON collection_jobs (target_id, created_at);
CREATE INDEX collection_jobs_created ON collection_jobs (created_at);

CREATE TABLE idempotency_keys (
    idempotency_key VARCHAR(300) NOT NULL PRIMARY KEY,
    request_hash    BIGINT       NOT NULL,
    claimed_at      TEXT         NOT NULL,
    response_status BIGINT,
    response_head   TEXT,
    response_body   TEXT
);

CREATE INDEX idempotency_keys_claimed ON idempotency_keys (claimed_at);
