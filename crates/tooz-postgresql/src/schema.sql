-- The tables of tooz in PostgreSQL, version 1.
--
-- tooz creates them by itself at the first start, where its role may. Where it may not, an
-- administrator runs this file once in the services' database, with the schema that the option
-- `schema` names in place of "tooz", and grants the services' role what it needs:
--
--     sed 's/"tooz"/"other"/' schema.sql | psql --single-transaction ...
--     GRANT USAGE ON SCHEMA tooz TO services;
--     GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tooz TO services;
--     GRANT USAGE ON ALL SEQUENCES IN SCHEMA tooz TO services;
--
-- Locks themselves are no rows: they are advisory locks of the server, which end with their
-- session. So is what shows that a member lives: `session` and `holder` are the keys of advisory
-- locks that the connection of the member or of the leader holds as long as it lives.

CREATE SCHEMA IF NOT EXISTS "tooz";
SET LOCAL search_path TO "tooz";

CREATE TABLE IF NOT EXISTS tooz_version (
    version integer NOT NULL,
    -- A server that started later may have forgotten what it granted.
    made_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tooz_version SELECT 1 WHERE NOT EXISTS (SELECT FROM tooz_version);

-- Fencing tokens, of all locks and terms.
CREATE SEQUENCE IF NOT EXISTS tooz_token;

CREATE TABLE IF NOT EXISTS tooz_group (
    id         bytea PRIMARY KEY,
    -- The operation that created it, for whoever lost the answer.
    operation  bytea NOT NULL
);

CREATE TABLE IF NOT EXISTS tooz_member (
    group_id     bytea NOT NULL REFERENCES tooz_group (id),
    id           bytea NOT NULL,
    session      bigint NOT NULL,
    capabilities bytea NOT NULL,
    -- Tells one membership of an id from a later one.
    incarnation  bigint NOT NULL,
    joined_at    timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, id)
);
CREATE INDEX IF NOT EXISTS tooz_member_session ON tooz_member (session);

CREATE TABLE IF NOT EXISTS tooz_leader (
    group_id  bytea PRIMARY KEY,
    member_id bytea NOT NULL,
    holder    bigint NOT NULL,
    token     bigint NOT NULL
);

-- What is held, with the option `lock_delay`: a release removes the row, so that the row of a
-- session that has ended tells of a holder that may not know yet.
CREATE TABLE IF NOT EXISTS tooz_hold (
    token   bigint PRIMARY KEY,
    lock    text NOT NULL,
    session bigint NOT NULL,
    free_at timestamptz
);
CREATE INDEX IF NOT EXISTS tooz_hold_lock ON tooz_hold (lock);
