//! What peers of the original write and crash with, byte for byte, and what they find of ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod server;

use std::time::Duration;

use server::{Server, asked_for, start};
use tooz_core::{ErrorKind, Result, Wait};

macro_rules! if_asked_for {
    () => {
        if !asked_for() {
            return Ok(());
        }
    };
}

#[tokio::test]
async fn a_lock_of_the_original_excludes_ours_and_the_other_way_round() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=3"), "a").await?;
    server.set("__TOOZ_LOCK_it", 1, 60, b"a");
    let lock = a.lock("it")?;
    assert!(lock.try_acquire().await?.is_none() && lock.try_acquire_shared().await?.is_none());
    server.say(b"delete __TOOZ_LOCK_it");
    for shared in [false, true] {
        let mode = if shared { tooz_core::Mode::Shared } else { tooz_core::Mode::Exclusive };
        let guard = lock.acquire_with(mode, Wait::Try).await?.expect("it is free");
        let refused = server.say(b"add __TOOZ_LOCK_it 1 30 1\r\nb");
        assert!(refused.starts_with(b"NOT_STORED"), "{}", refused.escape_ascii());
        // The original reads the value before it gives up: as bytes that are not its member.
        let (flags, value) = server.get("__TOOZ_LOCK_it").unwrap();
        assert!(flags == 1 && value != b"a");
        guard.release().await?;
        assert!(server.get("__TOOZ_LOCK_it").is_none());
    }
    a.stop().await
}

#[tokio::test]
async fn a_leader_of_either_kind_is_known_to_the_other() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=3"), "a").await?;
    a.join_group_create("g", &()).await?;
    let term = a.campaign("g").await?;
    const KEY: &str = "__TOOZ_LOCK__TOOZ_GROUP_LEADER_g";
    assert_eq!(server.get(KEY), Some((1, b"a".to_vec())));
    term.resign().await?;
    server.set(KEY, 1, 60, b"python");
    assert_eq!(a.leader("g").await?, Some("python".into()));
    assert!(a.campaign_with("g", Wait::Try).await?.is_none());
    // A namesake's term is not ours, although it has our value.
    server.say(format!("delete {KEY}").as_bytes());
    let term = a.campaign("g").await?;
    server.set(KEY, 1, 60, b"a");
    assert!(!term.verify().await?);
    assert_eq!(term.resign().await.unwrap_err().kind(), ErrorKind::LockLost);
    assert_eq!(server.get(KEY), Some((1, b"a".to_vec())));
    a.stop().await
}

#[tokio::test]
async fn a_group_of_the_original_is_one_of_ours() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=3"), "a").await?;
    server.set("_TOOZ_GROUP_LIST", 2, 0, b"\x91\xc4\x01g");
    server.set("_TOOZ_GROUP_g", 2, 0, b"\x81\xc4\x02m1\x81\xc4\x0ccapabilities\x81\xa6weight\x02");
    server.set("_TOOZ_MEMBER_m1", 1, 60, b"It's alive!");
    assert_eq!(a.groups().await?, ["g".into()].into());
    let weight: serde_json::Value = a.member("g", "m1").await?.capabilities.decode()?;
    assert_eq!(weight["weight"], 2);
    a.join_group("g", &3).await?;
    // The map is still the original's, with one more member in it, and that member lives.
    let (flags, value) = server.get("_TOOZ_GROUP_g").unwrap();
    let theirs = b"\xc4\x02m1\x81\xc4\x0ccapabilities\x81\xa6weight\x02";
    assert!(flags == 2 && value.starts_with(b"\x82") && value[1..].starts_with(theirs));
    assert!(value.windows(18).any(|w| w == b"\xc4\x01a\x82\xc4\x0ccapabilities"));
    assert!(server.get("_TOOZ_MEMBER_a").unwrap().1.starts_with(b"It's alive!"));
    // Without its sign of life, a member of the original is dead, and removed.
    server.say(b"delete _TOOZ_MEMBER_m1");
    assert_eq!(a.members("g").await?, ["a".into()].into());
    assert!(server.get("_TOOZ_GROUP_g").unwrap().1.starts_with(b"\x81"));
    a.leave_group("g").await?;
    assert_eq!(server.get("_TOOZ_GROUP_g").unwrap().1, b"\x80");
    a.delete_group("g").await?;
    assert_eq!(server.get("_TOOZ_GROUP_LIST").unwrap().1, b"\x90");
    a.stop().await
}

#[tokio::test]
async fn a_deletion_by_the_original_that_crashed_is_finished() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=3"), "a").await?;
    // It writes nil, and then it would delete.
    server.set("_TOOZ_GROUP_LIST", 2, 0, b"\x91\xc4\x01g");
    server.set("_TOOZ_GROUP_g", 2, 0, b"\xc0");
    let error = a.join_group("g", &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GroupNotCreated);
    assert!(a.groups().await?.is_empty(), "what cannot be joined does not exist");
    let created = tokio::time::timeout(Duration::from_secs(5), a.join_group_create("g", &()));
    created.await.expect("no loop without end")?;
    assert_eq!(a.members("g").await?, ["a".into()].into());
    a.stop().await
}

#[tokio::test]
async fn a_list_that_lacks_groups_or_has_too_many_is_mended() -> Result<()> {
    if_asked_for!();
    let server = Server::start(&[]);
    let a = start(&server.url("timeout=3"), "a").await?;
    a.join_group_create("g", &()).await?;
    server.say(b"delete _TOOZ_GROUP_LIST");
    a.heartbeat().await?;
    assert_eq!(a.groups().await?, ["g".into()].into(), "the list was evicted");
    // Crashed between the two steps of a creation.
    server.set("_TOOZ_GROUP_LIST", 2, 0, b"\x92\xc4\x01g\xc4\x01h");
    assert_eq!(a.groups().await?, ["g".into()].into());
    a.create_group("h").await?;
    a.delete_group("h").await?;
    assert_eq!(server.get("_TOOZ_GROUP_LIST").unwrap().1, b"\x91\xc4\x01g");
    a.stop().await
}
