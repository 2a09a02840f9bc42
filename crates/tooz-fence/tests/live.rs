//! Forced interleavings: two holders' statements in every order, at real resources.
//!
//! Two holders of one lock, an earlier and a later one, each read a balance and write it back with
//! their own amount added. Their steps are made in each order that there is, or in many by a seeded
//! choice. Afterwards the balance must have the amount of everyone who was told that it was written,
//! and nobody may have written after a later holder. The same is done with the mistakes that are
//! commonly made: if these lost nothing, this test would be worth nothing.
//!
//! SQLite and files need no server. `TOOZ_TEST_URL_POSTGRESQL`, `TOOZ_TEST_URL_MYSQL`,
//! `TOOZ_TEST_URL_MARIADB`, `TOOZ_TEST_URL_REDIS`, `…_VALKEY` and `…_REDIS_CLUSTER` ask for the others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "live/file.rs"]
mod file;
#[path = "live/ledger.rs"]
mod ledger;
#[path = "live/orders.rs"]
mod orders;
#[path = "live/redis.rs"]
mod redis;
#[path = "live/sql.rs"]
mod sql;
#[path = "live/stage.rs"]
mod stage;
#[path = "live/tokio_postgres.rs"]
mod tokio_postgres;

/// The URL of a server, if these tests are asked for.
fn server(setup: &str) -> Option<String> {
    let variable = format!("TOOZ_TEST_URL_{setup}");
    let url = std::env::var(&variable).ok();
    if url.is_none() {
        eprintln!("not asked for: {variable} is not set");
    }
    url
}
