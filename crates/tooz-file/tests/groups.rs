//! Groups: members, events, elections, and the files of Python members.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{event, only_file, soon, started, started_with};
use serde_json::json;
use tempfile::tempdir;
use tooz_core::{
    Capabilities, Coordinator, ErrorKind, Events, GroupEvent, GroupId, JoinRequest, Loss, MemberId,
    Options, SessionEvent, Wait,
};

/// sha1 of `g`, of `a`.
const GROUP: &str = "54fd1711209fb1c0781092374132c66e79e2241b";
const MEMBER_A: &str = "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8.raw";
/// A record of Python's, of the member `vec-member`, and its name.
const PYTHON: (&str, &[u8]) = (
    "15b61c4f43561f51561c800e8492da72291644d5.raw",
    b"\x84\xaccapabilities\x81\xa6weight\x03\xa9joined_on\xc7\x3a\x01\x87\xa3day\x16\xa5month\x0b\
      \xa4year\xcd\x07\xea\xa4hour\x04\xa6minute\x02\xa6second\x03\xabmicrosecond\xcd\x3f\x54\
      \xa9member_id\xc4\x0avec-member\xa7encoded\xc2",
);

fn group_dir(dir: &Path) -> PathBuf {
    dir.join("groups").join(GROUP)
}

/// What Python does to join, but for its lock.
fn python_joins(dir: &Path, touched: SystemTime) -> File {
    let path = group_dir(dir).join(PYTHON.0);
    fs::write(&path, PYTHON.1).unwrap();
    let file = File::open(path).unwrap();
    python_touches(&file, touched);
    file
}

/// What Python does at a heartbeat.
fn python_touches(file: &File, now: SystemTime) {
    file.set_times(FileTimes::new().set_accessed(now).set_modified(now)).unwrap();
}

/// The events of the group after those of now.
async fn watched(coordinator: &Coordinator) -> Events<GroupEvent> {
    let mut events = coordinator.watch_group("g").await.unwrap();
    let first = soon("snapshot", events.next()).await;
    assert!(matches!(first, Some(GroupEvent::Snapshot(_))), "{first:?}");
    events
}

async fn ids(coordinator: &Coordinator) -> Vec<String> {
    coordinator.members("g").await.unwrap().iter().map(ToString::to_string).collect()
}

async fn joined(events: &mut Events<GroupEvent>, id: &str) {
    event(events, &format!("join of {id}"), |event| match event {
        GroupEvent::Joined(member) => (member.id == id.into()).then_some(()),
        _ => None,
    })
    .await;
}

async fn left(events: &mut Events<GroupEvent>, id: &str) {
    event(events, &format!("leave of {id}"), |event| match event {
        GroupEvent::Left(member) => (member.id == id.into()).then_some(()),
        _ => None,
    })
    .await;
}

#[tokio::test]
async fn a_group_from_its_creation_to_its_end() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    for error in [
        a.join_group("g", &()).await.unwrap_err(),
        a.leave_group("g").await.unwrap_err(),
        a.members("g").await.unwrap_err(),
        a.member("g", "a").await.unwrap_err(),
        a.leader("g").await.unwrap_err(),
        a.update_capabilities("g", &()).await.unwrap_err(),
        a.delete_group("g").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::GroupNotCreated, "{error}");
    }
    a.create_group("g").await.unwrap();
    let error = b.create_group("g").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GroupAlreadyExists);
    assert_eq!(b.groups().await.unwrap(), ["g".into()].into());
    for error in [b.leave_group("g").await, b.update_capabilities("g", &()).await] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::MemberNotJoined);
    }
    a.join_group("g", &json!({"weight": 1})).await.unwrap();
    b.join_group("g", &()).await.unwrap();
    assert_eq!(a.join_group("g", &()).await.unwrap_err().kind(), ErrorKind::MemberAlreadyExists);
    let twin = started(dir.path(), "a").await;
    assert_eq!(twin.join_group("g", &()).await.unwrap_err().kind(), ErrorKind::MemberAlreadyExists);
    assert_eq!(ids(&a).await, ["a", "b"]);
    let before = b.member("g", "a").await.unwrap();
    a.update_capabilities("g", &json!({"weight": 2})).await.unwrap();
    let after = b.member("g", "a").await.unwrap();
    assert_eq!(after.capabilities.decode::<serde_json::Value>().unwrap(), json!({"weight": 2}));
    assert_eq!((after.joined_at, after.incarnation), (before.joined_at, before.incarnation));
    let age = SystemTime::now().duration_since(after.joined_at.unwrap()).unwrap();
    assert!(age < common::SOON, "joined {age:?} ago");
    assert_eq!(a.delete_group("g").await.unwrap_err().kind(), ErrorKind::GroupNotEmpty);
    a.leave_group("g").await.unwrap();
    b.leave_group("g").await.unwrap();
    a.delete_group("g").await.unwrap();
    assert!(a.groups().await.unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("groups")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_files_are_as_python_writes_them() {
    let dir = tempdir().unwrap();
    let a = started(dir.path(), "a").await;
    a.create_group("g").await.unwrap();
    a.join_group("g", &json!({"weight": 1})).await.unwrap();
    let metadata = fs::read(group_dir(dir.path()).join(".metadata")).unwrap();
    assert_eq!(metadata, b"\x82\xa8group_id\xc4\x01g\xa7encoded\xc2");
    let record = fs::read(group_dir(dir.path()).join(MEMBER_A)).unwrap();
    let expected = b"\x85\xaccapabilities\x81\xa6weight\x01\xa9joined_on\xc7";
    assert_eq!(&record[..expected.len()], expected);
    let session = only_file(&dir.path().join(".tooz/sessions"));
    let session = session.file_name().unwrap().as_encoded_bytes();
    let expected = [b"\xa9member_id\xc4\x01a\xa7encoded\xc2\xa7session\xd9\x20", session].concat();
    assert_eq!(&record[record.len() - expected.len()..], expected);
}

#[tokio::test]
async fn what_happens_in_a_group_is_pushed() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    a.create_group("g").await.unwrap();
    let mut events = watched(&a).await;
    b.join_group("g", &1).await.unwrap();
    joined(&mut events, "b").await;
    b.update_capabilities("g", &2).await.unwrap();
    let updated = event(&mut events, "update", |event| match event {
        GroupEvent::Updated(member) => Some(member.capabilities.clone()),
        _ => None,
    })
    .await;
    assert_eq!(updated.decode::<u8>().unwrap(), 2);
    b.leave_group("g").await.unwrap();
    left(&mut events, "b").await;
    a.delete_group("g").await.unwrap();
    a.create_group("g").await.unwrap();
    b.join_group("g", &3).await.unwrap();
    joined(&mut events, "b").await;
    b.stop().await.unwrap();
    left(&mut events, "b").await;
}

#[tokio::test]
async fn a_membership_that_is_removed_is_joined_again() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    a.create_group("g").await.unwrap();
    a.join_group("g", &json!({"weight": 5})).await.unwrap();
    let mut events = watched(&b).await;
    let mut own = watched(&a).await;
    fs::remove_file(group_dir(dir.path()).join(MEMBER_A)).unwrap();
    let rejoined = |event: &GroupEvent| (*event == GroupEvent::Rejoined).then_some(());
    event(&mut own, "rejoined", rejoined).await;
    joined(&mut events, "a").await;
    // The whole group, as far as it is not joined again meanwhile.
    let _ = fs::remove_dir_all(group_dir(dir.path()));
    event(&mut own, "rejoined", rejoined).await;
    joined(&mut events, "a").await;
    // Whatever makes room in a temporary directory.
    let _ = fs::remove_dir_all(dir.path().join("tmp"));
    let _ = fs::remove_dir_all(dir.path().join("groups"));
    let member = async {
        loop {
            match b.member("g", "a").await {
                Ok(member) => break member,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let member = soon("membership", member).await;
    assert_eq!(member.capabilities.decode::<serde_json::Value>().unwrap(), json!({"weight": 5}));
}

/// What the engine keeps from happening, the driver does as well: a session that has not joined
/// touches nothing of its namesake's.
#[tokio::test]
async fn a_membership_is_of_the_session_that_wrote_it() {
    let dir = tempdir().unwrap();
    let url = format!("file://{}", dir.path().display()).parse().unwrap();
    let driver = (tooz_file::DRIVER.open)(&url, Options::of(&url)).unwrap();
    let (member, group) = (MemberId::from("a"), GroupId::from("g"));
    let (one, two) =
        (driver.connect(&member).await.unwrap(), driver.connect(&member).await.unwrap());
    let (ours, theirs) = (one.require_groups().unwrap(), two.require_groups().unwrap());
    ours.create(&group).await.unwrap();
    let join = || JoinRequest::new(group.clone(), Capabilities::none(), false);
    let lease = ours.join(join()).await.unwrap();
    for error in [
        theirs.leave(&group).await.unwrap_err(),
        theirs.update_capabilities(&group, &Capabilities::none()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::MemberNotJoined);
    }
    assert!(lease.is_held());
    // And the one that was removed nothing of its successor's.
    theirs.remove_member(&group, &member).await.unwrap();
    assert_eq!(soon("loss", lease.lost()).await, Loss::Taken);
    let successor = theirs.join(join()).await.unwrap();
    assert_eq!(ours.leave(&group).await.unwrap_err().kind(), ErrorKind::MemberNotJoined);
    one.close().await.unwrap();
    assert!(successor.is_held());
    assert_eq!(theirs.members(&group).await.unwrap(), [member].into());
}

#[tokio::test]
async fn a_session_that_is_taken_away_is_rebuilt() {
    let dir = tempdir().unwrap();
    let a = started(dir.path(), "a").await;
    a.create_group("g").await.unwrap();
    a.join_group("g", &json!({"weight": 5})).await.unwrap();
    let mut sessions = a.session_events();
    let term = a.campaign("g").await.unwrap();
    fs::remove_file(only_file(&dir.path().join(".tooz/sessions"))).unwrap();
    assert_eq!(soon("loss", term.lost()).await, Loss::SessionEnded);
    event(&mut sessions, "lost", |e| matches!(e, SessionEvent::Lost(_)).then_some(())).await;
    event(&mut sessions, "rejoined", |e| {
        (*e == SessionEvent::Rejoined(vec!["g".into()])).then_some(())
    })
    .await;
    let member = a.member("g", "a").await.unwrap();
    assert_eq!(member.capabilities.decode::<serde_json::Value>().unwrap(), json!({"weight": 5}));
    assert_eq!(a.leader("g").await.unwrap(), None);
    let first = term.fencing_token();
    assert_eq!(term.resign().await.unwrap_err().kind(), ErrorKind::LockLost);
    let again = soon("term", a.campaign("g")).await.unwrap();
    assert!(again.fencing_token() > first);
}

#[tokio::test]
async fn a_directory_that_is_removed_is_built_again() {
    let dir = tempdir().unwrap();
    let a = started(dir.path(), "a").await;
    a.create_group("g").await.unwrap();
    a.join_group("g", &1).await.unwrap();
    let mut sessions = a.session_events();
    let mut events = watched(&a).await;
    // It can fail: what is removed is being built again already, perhaps more than once.
    let _ = fs::remove_dir_all(dir.path());
    event(&mut sessions, "rejoined", |e| {
        (*e == SessionEvent::Rejoined(vec!["g".into()])).then_some(())
    })
    .await;
    let is_back = async {
        while a.members("g").await.ok() != Some(["a".into()].into()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("membership", is_back).await;
    event(&mut events, "rejoined", |e| (*e == GroupEvent::Rejoined).then_some(())).await;
}

#[tokio::test]
async fn python_members_live_by_the_age_of_their_files() {
    let dir = tempdir().unwrap();
    let a = started_with(dir.path(), "a", "?timeout=2").await;
    a.create_group("g").await.unwrap();
    let mut events = watched(&a).await;
    let file = python_joins(dir.path(), SystemTime::now());
    joined(&mut events, "vec-member").await;
    let member = a.member("g", "vec-member").await.unwrap();
    assert_eq!(member.capabilities.as_msgpack(), b"\x81\xa6weight\x03");
    assert_eq!(a.delete_group("g").await.unwrap_err().kind(), ErrorKind::GroupNotEmpty);
    let twin = started_with(dir.path(), "vec-member", "?timeout=2").await;
    let refused = twin.join_group("g", &()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::MemberAlreadyExists);
    left(&mut events, "vec-member").await;
    assert_eq!(ids(&a).await, [""; 0]);
    python_touches(&file, SystemTime::now());
    joined(&mut events, "vec-member").await;
    // An operator removes it, and it is gone for its own process too, which joins with a new file.
    a.remove_member("g", "vec-member").await.unwrap();
    left(&mut events, "vec-member").await;
    assert!(!group_dir(dir.path()).join(PYTHON.0).exists());
    let error = a.remove_member("g", "vec-member").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MemberNotJoined);
    let file = python_joins(dir.path(), SystemTime::now());
    joined(&mut events, "vec-member").await;
    // Dead again, it stands in nobody's way.
    python_touches(&file, SystemTime::now() - Duration::from_secs(60));
    let error = a.remove_member("g", "vec-member").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MemberNotJoined);
    twin.join_group("g", &7).await.unwrap();
    assert_eq!(ids(&a).await, ["vec-member"]);
    twin.leave_group("g").await.unwrap();
    python_joins(dir.path(), SystemTime::now() - Duration::from_secs(60));
    a.delete_group("g").await.unwrap();
}

#[tokio::test]
async fn our_files_are_touched_for_python() {
    let dir = tempdir().unwrap();
    let a = started_with(dir.path(), "a", "?timeout=0.3").await;
    a.create_group("g").await.unwrap();
    a.join_group("g", &()).await.unwrap();
    let file = group_dir(dir.path()).join(MEMBER_A);
    let touched = || fs::metadata(&file).unwrap().modified().unwrap();
    let first = touched();
    let touches = async {
        while touched() == first {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("touch", touches).await;
}

#[tokio::test]
async fn torn_files_and_files_of_others_hide_nobody() {
    let dir = tempdir().unwrap();
    let a = started(dir.path(), "a").await;
    a.create_group("g").await.unwrap();
    a.join_group("g", &()).await.unwrap();
    fs::write(group_dir(dir.path()).join("torn.raw"), &PYTHON.1[..40]).unwrap();
    fs::write(dir.path().join("groups/file"), "").unwrap();
    fs::create_dir(dir.path().join("groups/empty")).unwrap();
    assert_eq!(ids(&a).await, ["a"]);
    assert_eq!(a.groups().await.unwrap(), ["g".into()].into());
}

#[tokio::test]
async fn one_leads_at_a_time_and_all_can_see_who() {
    let dir = tempdir().unwrap();
    let (a, b) = (started(dir.path(), "a").await, started(dir.path(), "b").await);
    a.create_group("g").await.unwrap();
    assert_eq!(a.campaign("g").await.unwrap_err().kind(), ErrorKind::MemberNotJoined);
    a.join_group("g", &()).await.unwrap();
    b.join_group("g", &()).await.unwrap();
    let mut leaders = b.watch_leader("g").await.unwrap();
    let leads = |id: Option<&str>| {
        let id = id.map(MemberId::from);
        move |leader: &Option<MemberId>| (*leader == id).then_some(())
    };
    event(&mut leaders, "nobody", leads(None)).await;
    let term = a.campaign("g").await.unwrap();
    event(&mut leaders, "a leads", leads(Some("a"))).await;
    assert_eq!(b.leader("g").await.unwrap(), Some("a".into()));
    assert!(b.campaign_with("g", Wait::Try).await.unwrap().is_none());
    assert!(term.verify().await.unwrap());
    let candidate = b.clone();
    let candidacy = tokio::spawn(async move { candidate.campaign("g").await.unwrap() });
    let first = term.fencing_token();
    term.resign().await.unwrap();
    let term = soon("second term", candidacy).await.unwrap();
    event(&mut leaders, "b leads", leads(Some("b"))).await;
    assert!(term.fencing_token() > first);
    let second = term.fencing_token();
    // Who leaves leads no more; the counter outlives the group.
    b.leave_group("g").await.unwrap();
    assert!(term.loss().is_some());
    event(&mut leaders, "nobody", leads(None)).await;
    a.leave_group("g").await.unwrap();
    a.delete_group("g").await.unwrap();
    a.create_group("g").await.unwrap();
    assert_eq!(a.leader("g").await.unwrap(), None);
    a.join_group("g", &()).await.unwrap();
    assert!(a.campaign("g").await.unwrap().fencing_token() > second);
}
