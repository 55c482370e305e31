-- The columns of the specification first, in its order and with its types, lengths and defaults; ours below them.
-- JSON, not JSONB: the text stays as it was written, and the checksum is over the text.
-- "Integer" is BIGINT: five minutes of a fast source are more than 2^31 metrics.

CREATE TABLE metric_targets (
    id                UUID         NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    target_id         VARCHAR(100) NOT NULL UNIQUE CHECK (target_id <> ''),
    target_url        VARCHAR(500) NOT NULL,
    source_type       VARCHAR(50)  NOT NULL,
    scrape_config     JSON         NOT NULL,
    labels            JSON,
    health_status     VARCHAR(20)  NOT NULL DEFAULT 'unknown',
    enabled           BOOLEAN      NOT NULL DEFAULT TRUE,
    created_at        TIMESTAMPTZ  NOT NULL DEFAULT now(),

    source_id         VARCHAR(100) NOT NULL DEFAULT '',
    collection_method VARCHAR(50)  NOT NULL DEFAULT 'PULL_SCRAPING',
    origin            VARCHAR(200) NOT NULL DEFAULT 'api',
    request           JSON,
    filters           JSON,
    retention_policy  JSON,
    limits            JSON,
    version           BIGINT       NOT NULL DEFAULT 1,
    updated_at        TIMESTAMPTZ  NOT NULL DEFAULT now(),
    deleted_at        TIMESTAMPTZ,
    deletion          JSON,
    checksum          BIGINT       NOT NULL DEFAULT 0
);

CREATE INDEX metric_targets_source ON metric_targets (source_id);
CREATE INDEX metric_targets_deleted ON metric_targets (deleted_at) WHERE deleted_at IS NOT NULL;

-- No foreign key: a push that nobody registered is recorded under its source id, and nothing cascades.
CREATE TABLE collection_jobs (
    id                     UUID         NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    job_id                 VARCHAR(100) NOT NULL UNIQUE CHECK (job_id <> ''),
    target_id              VARCHAR(100) NOT NULL,
    collection_method      VARCHAR(50)  NOT NULL,
    status                 VARCHAR(20)  NOT NULL,
    metrics_collected      BIGINT       NOT NULL DEFAULT 0,
    collection_duration_ms DOUBLE PRECISION,
    error_details          TEXT,
    created_at             TIMESTAMPTZ  NOT NULL DEFAULT now(),

    source_id              VARCHAR(100) NOT NULL DEFAULT '',
    health_status          VARCHAR(20)  NOT NULL DEFAULT 'unknown',
    collections            BIGINT       NOT NULL DEFAULT 1,
    samples_stored         BIGINT       NOT NULL DEFAULT 0,
    samples_refused        BIGINT       NOT NULL DEFAULT 0,
    window_start           TIMESTAMPTZ,
    updated_at             TIMESTAMPTZ  NOT NULL DEFAULT now()
);

CREATE INDEX collection_jobs_target ON collection_jobs (target_id, created_at);
CREATE INDEX collection_jobs_created ON collection_jobs (created_at);

CREATE TABLE idempotency_keys (
    idempotency_key VARCHAR(300) NOT NULL PRIMARY KEY,
    request_hash    BIGINT       NOT NULL,
    claimed_at      TIMESTAMPTZ  NOT NULL,
    claimed_by      VARCHAR(36)  NOT NULL,
    touched_at      TIMESTAMPTZ  NOT NULL DEFAULT now(),
    response_status BIGINT,
    response_head   TEXT,
    response_body   TEXT
);

CREATE INDEX idempotency_keys_claimed ON idempotency_keys (claimed_at);

-- Every server that shares these tables listens and reads the named row again; '*' means all rows.
CREATE FUNCTION quiver_target_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('quiver_targets', '*');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('quiver_targets', OLD.target_id);
    ELSE
        PERFORM pg_notify('quiver_targets', NEW.target_id);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER metric_targets_came_or_went AFTER INSERT OR DELETE ON metric_targets
    FOR EACH ROW EXECUTE FUNCTION quiver_target_changed();
-- Each server finds the state of health out by itself, so a change of it alone is nobody's news.
CREATE TRIGGER metric_targets_changed AFTER UPDATE ON metric_targets
    FOR EACH ROW WHEN (OLD.version <> NEW.version OR OLD.health_status = NEW.health_status)
    EXECUTE FUNCTION quiver_target_changed();
CREATE TRIGGER metric_targets_emptied AFTER TRUNCATE ON metric_targets
    FOR EACH STATEMENT EXECUTE FUNCTION quiver_target_changed();
