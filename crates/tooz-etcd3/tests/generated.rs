//! Whether `src/generated.rs` is what `proto/etcd.proto` gives. `TOOZ_GENERATE=1` writes it anew.
//!
//! It is checked in so that a user's build needs no compiler for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

#[test]
fn the_generated_code_is_current() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = tempfile::tempdir().unwrap();
    let proto = here.join("proto");
    let compiled = protox::compile(["etcd.proto"], [&proto]).unwrap();
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .out_dir(made.path())
        .compile_fds(compiled)
        .unwrap();
    let made = std::fs::read_to_string(made.path().join("etcdserverpb.rs")).unwrap();
    let checked_in = here.join("src/generated.rs");
    if std::env::var_os("TOOZ_GENERATE").is_some() {
        std::fs::write(&checked_in, &made).unwrap();
    }
    let current = std::fs::read_to_string(&checked_in).unwrap();
    assert!(current == made, "run it with TOOZ_GENERATE=1 and commit src/generated.rs");
}
