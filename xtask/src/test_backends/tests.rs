//! Whole runs with a shell script as the conformance program.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tempfile::TempDir;

use super::*;

/// A script that answers for `TOOZ_TEST_SETUPS`, in a folder that the guard removes.
fn fake(script: &str) -> (TempDir, TestProgram) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("conformance");
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    let conformance = TestProgram::existing(&file).unwrap();
    (folder, conformance)
}

fn run_with(only: &[&str], pass: &[&str], script: &str) -> anyhow::Result<()> {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let binary = Some("given below".into());
    let options = Options { only: owned(only), pass: owned(pass), binary, ..Options::default() };
    let plan = Plan::new(&options)?;
    let (_folder, conformance) = fake(script);
    let host = Host::new(&Interrupt::default())?;
    test(&plan, &conformance, &host, &options.pass)
}

fn error_of(only: &[&str], pass: &[&str], script: &str) -> String {
    run_with(only, pass, script).unwrap_err().to_string()
}

const BOTH_PASS: &str = r#"
[ "$TOOZ_TEST_SETUPS" = memory,file ] || exit 9
echo 'test memory::locks::a ... ok'
echo 'test file::locks::a ... ok'
echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'"#;

#[test]
fn a_good_run_is_good() {
    run_with(&["memory", "file"], &[], BOTH_PASS).unwrap();
}

#[test]
fn arguments_are_passed_on() {
    let script = format!("[ \"$*\" = 'locks --exact' ] || exit 8\n{BOTH_PASS}");
    run_with(&["memory", "file"], &["locks", "--exact"], &script).unwrap();
}

#[test]
fn a_run_without_tests_fails() {
    let script = "echo 'test result: ok. 0 passed; 0 failed; 0 ignored'";
    assert!(error_of(&["memory"], &[], script).contains("no test was run"));
    let skips = "echo 'test memory::locks::a ... ignored'
        echo 'test result: ok. 0 passed; 0 failed; 1 ignored'";
    assert!(error_of(&["memory"], &[], skips).contains("no test was run"));
}

#[test]
fn an_asked_setup_without_tests_fails_also_with_a_filter() {
    let script = "echo 'test memory::locks::a ... ok'
        echo 'test result: ok. 1 passed; 0 failed; 0 ignored'";
    assert_eq!(error_of(&["memory", "file"], &[], script), "file has no test run");
    assert_eq!(error_of(&["memory", "file"], &["locks"], script), "file has no test run");
}

#[test]
fn a_failed_test_and_a_failed_program_fail() {
    let script = "echo 'test memory::locks::a ... FAILED'
        echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101";
    assert_eq!(error_of(&["memory"], &[], script), "failed tests: 1");
    let script = "echo 'test memory::locks::a ... ok'
        echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exit 3";
    assert!(error_of(&["memory"], &[], script).contains("exit status: 3"));
}

#[test]
fn a_failed_test_whose_line_was_garbled_still_fails() {
    let script = "echo 'test memory::locks::a ... ok'; echo 'test memory::locks::b ... noiseFAILED'
        echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'";
    assert_eq!(error_of(&["memory"], &[], script), "failed tests: 1");
}

#[test]
fn a_program_that_dies_midway_fails() {
    let script = "echo 'test memory::locks::a ... ok'; kill -KILL $$";
    let error = error_of(&["memory"], &[], script);
    assert!(error.contains("signal: 9") && error.contains("did not reach its end"), "{error}");
}

#[test]
fn what_the_program_leaves_behind_ends_with_it() {
    let folder = TempDir::new().unwrap();
    let pid_file = folder.path().join("pid");
    let script = format!("sleep 600 & echo $! >'{}'\n{BOTH_PASS}", pid_file.display());
    run_with(&["memory", "file"], &[], &script).unwrap();
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let status = format!("/proc/{}/status", pid.trim());
    let limit = Instant::now() + Duration::from_secs(30);
    // A zombie that nobody has collected yet is not running.
    while std::fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")) {
        assert!(Instant::now() < limit, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
