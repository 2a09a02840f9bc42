-- The tables of tooz in MySQL and MariaDB, version 1.
--
-- tooz creates them by itself at the first start, where its user may. Where it may not, an
-- administrator runs this file once in the database of the URL, with the namespace (the option
-- `namespace`) in place of `tooz_`:
--
--     sed 's/`tooz_/`other_/' schema.sql | mysql DATABASE
--     GRANT SELECT, INSERT, UPDATE, DELETE ON DATABASE.* TO services;
--
-- Locks themselves are no rows: they are named locks of the server, which end with their session.
-- So is what shows that a member lives: `session` names a lock that its connection holds.

-- Who is connected: a row is true as long as `connection` holds the lock that `id` names.
CREATE TABLE IF NOT EXISTS `tooz_session` (
    id           BINARY(16) NOT NULL PRIMARY KEY,
    connection   BIGINT UNSIGNED NOT NULL,
    member_id    VARBINARY(1000) NOT NULL,
    -- The connection whose statement is to be ended (KILL QUERY) for the session to look at `broken`.
    listener     BIGINT UNSIGNED
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS `tooz_group` (
    id           VARBINARY(1000) NOT NULL PRIMARY KEY,
    -- The operation that created it, for whoever lost the answer.
    operation    BINARY(16) NOT NULL
) ENGINE=InnoDB;

CREATE TABLE IF NOT EXISTS `tooz_member` (
    group_id     VARBINARY(1000) NOT NULL,
    id           VARBINARY(1000) NOT NULL,
    session      BINARY(16) NOT NULL,
    connection   BIGINT UNSIGNED NOT NULL,
    capabilities LONGBLOB NOT NULL,
    -- Tells one membership of an id from a later one.
    incarnation  BIGINT UNSIGNED NOT NULL,
    -- Tells one set of capabilities from a later one.
    revision     BIGINT UNSIGNED NOT NULL,
    joined_at    BIGINT UNSIGNED NOT NULL,
    updated_at   BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (group_id, id)
) ENGINE=InnoDB;

-- The fencing tokens, and who was given the last: it holds the lock only if `connection` holds it
-- at the server.
CREATE TABLE IF NOT EXISTS `tooz_token` (
    name         VARBINARY(192) NOT NULL PRIMARY KEY,
    token        BIGINT UNSIGNED NOT NULL,
    connection   BIGINT UNSIGNED NOT NULL,
    operation    BINARY(16) NOT NULL,
    member_id    VARBINARY(1000) NOT NULL
) ENGINE=InnoDB;

-- The shared holders of a lock: each holds a named lock of its own.
CREATE TABLE IF NOT EXISTS `tooz_reader` (
    operation    BINARY(16) NOT NULL PRIMARY KEY,
    name         VARBINARY(192) NOT NULL,
    connection   BIGINT UNSIGNED NOT NULL,
    KEY (name)
) ENGINE=InnoDB;

-- Acquisitions that were broken, for their holders to read.
CREATE TABLE IF NOT EXISTS `tooz_broken` (
    operation    BINARY(16) NOT NULL PRIMARY KEY,
    connection   BIGINT UNSIGNED NOT NULL,
    KEY (connection)
) ENGINE=InnoDB;

-- What is held, with the option `lock_delay`: a row that is left when its holder has ended keeps the
-- next one waiting until `free_at`, in milliseconds of the server's clock.
CREATE TABLE IF NOT EXISTS `tooz_hold` (
    operation    BINARY(16) NOT NULL PRIMARY KEY,
    name         VARBINARY(192) NOT NULL,
    connection   BIGINT UNSIGNED NOT NULL,
    shared       BOOLEAN NOT NULL,
    free_at      BIGINT UNSIGNED,
    KEY (name)
) ENGINE=InnoDB;

-- The last, so that whoever sees it sees all.
CREATE TABLE IF NOT EXISTS `tooz_version` (
    version      INT NOT NULL PRIMARY KEY
) ENGINE=InnoDB;
INSERT IGNORE INTO `tooz_version` VALUES (1);
