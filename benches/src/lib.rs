//! What the benchmarks beside this library share: figures, and the pages that show them.

#![allow(missing_docs, reason = "it is not published, and its names say it")]

pub mod protocol;
pub mod record;
pub mod report;
pub mod statistics;
