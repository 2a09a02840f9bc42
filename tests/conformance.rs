//! Every case of the kit over every driver: `setup::area::case`.
//!
//! `TOOZ_TEST_SETUPS=redis,file` chooses the setups; without it, those run that need no server.

mod fixtures;

use std::process::ExitCode;

fn main() -> ExitCode {
    tooz_testkit::main(fixtures::all(), include_str!("../docs/capability-matrix.md"))
}
