//! The command, run as a user runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod contention;
mod demo;
mod elect;
mod general;
mod groups;
mod hang;
mod job;
mod lock;
mod messages;
mod python;
mod several;
mod support;
mod terminal;
