//! Every example runs to its end.

#[path = "../examples/coordinator.rs"]
mod coordinator;
#[path = "../examples/coordinator_manual_heartbeat.rs"]
mod coordinator_manual_heartbeat;
#[path = "../examples/election.rs"]
mod election;
#[path = "../examples/group.rs"]
mod group;
#[path = "../examples/lock.rs"]
mod lock;

#[test]
fn coordinator_runs() {
    coordinator::main().unwrap();
}

#[test]
fn coordinator_manual_heartbeat_runs() {
    coordinator_manual_heartbeat::main().unwrap();
}

#[test]
fn group_runs() {
    group::main().unwrap();
}

#[test]
fn election_runs() {
    election::main().unwrap();
}

#[test]
fn lock_runs() {
    lock::main().unwrap();
}
