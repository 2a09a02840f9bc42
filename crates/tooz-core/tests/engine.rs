//! The engine's promises, over the in-process driver and its faults.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tooz_core::blocking::block_on;
use tooz_core::{
    Coordinator, Driver, DriverEntry, Error, ErrorKind, Events, GroupEvent, GroupId, Heartbeat,
    Loss, MemberId, Registry, Result, Session, SessionEvent, Wait, async_trait,
};
use tooz_memory::World;

const TTL: Duration = Duration::from_secs(1);

fn coordinator(world: &str, member: &str) -> Coordinator {
    let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
    let url = format!("memory://{world}?timeout={}", TTL.as_secs_f64());
    let builder = registry.builder(&url, member).unwrap();
    let builder = builder.operation_timeout(Duration::from_secs(5));
    builder.stop_grace(Duration::from_millis(50)).build().unwrap()
}

async fn started(world: &str, member: &str) -> Coordinator {
    let coordinator = coordinator(world, member);
    coordinator.start().await.unwrap();
    coordinator
}

#[test]
fn a_lock_excludes_hands_over_and_its_tokens_rise() {
    block_on(async {
        let (a, b) = (started("hand-over", "a").await, started("hand-over", "b").await);
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        let lock = b.lock("x").unwrap();
        assert!(lock.try_acquire().await.unwrap().is_none());
        assert!(lock.try_acquire_for(Duration::from_millis(50)).await.unwrap().is_none());
        let first = held.fencing_token();
        held.release().await.unwrap();
        let held = lock.acquire().await.unwrap();
        assert!(held.fencing_token() > first);
        assert!(held.verify().await.unwrap());
    });
}

#[test]
fn an_uncontended_acquisition_and_its_release_cost_one_request_each() {
    block_on(async {
        let world = World::named("requests");
        let a = started("requests", "a").await;
        let before = world.requests();
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        assert_eq!(world.requests() - before, 1);
        held.release().await.unwrap();
        assert_eq!(world.requests() - before, 2);
    });
}

#[test]
fn a_loss_is_reported_by_the_deadline_with_the_backend_silent() {
    block_on(async {
        let world = World::named("silent");
        let a = started("silent", "a").await;
        let mut events = a.session_events();
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        world.pause();
        let began = Instant::now();
        assert_eq!(held.lost().await, Loss::Expired);
        assert!(began.elapsed() < TTL, "{:?}", began.elapsed());
        assert_eq!(held.check().unwrap_err().kind(), ErrorKind::LockLost);
        world.resume();
        assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::LockLost);
        loop {
            match events.next().await.unwrap() {
                SessionEvent::Rejoined(_) => break,
                event => assert!(!matches!(event, SessionEvent::Resumed), "{event:?}"),
            }
        }
    });
}

#[test]
fn a_lost_session_is_rebuilt_with_its_groups_and_watches() {
    block_on(async {
        let world = World::named("rebuilt");
        let a = started("rebuilt", "a").await;
        a.join_group_create("g", &7).await.unwrap();
        let mut group = a.watch_group("g").await.unwrap();
        let mut session = a.session_events();
        assert!(matches!(group.next().await, Some(GroupEvent::Snapshot(m)) if m.len() == 1));
        let term = a.campaign("g").await.unwrap();
        assert!(world.expire_session(&MemberId::from("a")));
        assert_eq!(session.next().await, Some(SessionEvent::Lost(Loss::SessionEnded)));
        assert_eq!(term.lost().await, Loss::SessionEnded);
        let rejoined = SessionEvent::Rejoined(vec!["g".into()]);
        assert_eq!(session.next().await, Some(rejoined));
        let members = a.members_with_capabilities("g").await.unwrap();
        assert_eq!(members[0].capabilities.decode::<u8>().unwrap(), 7);
        let mut seen = Vec::new();
        while !seen.contains(&GroupEvent::Rejoined) {
            seen.push(group.next().await.unwrap());
        }
    });
}

#[test]
fn groups_are_rebuilt_on_a_server_that_lost_everything() {
    block_on(async {
        let world = World::named("wiped");
        let a = started("wiped", "a").await;
        a.join_group_create("g", &()).await.unwrap();
        let mut session = a.session_events();
        world.wipe();
        while !matches!(session.next().await, Some(SessionEvent::Rejoined(_))) {}
        assert_eq!(a.members("g").await.unwrap().len(), 1);
    });
}

#[test]
fn lost_replies_are_resolved() {
    block_on(async {
        let world = World::named("lost-replies");
        let a = started("lost-replies", "a").await;
        world.drop_replies(1);
        a.create_group("g").await.unwrap();
        world.drop_replies(1);
        a.join_group("g", &1).await.unwrap();
        world.drop_replies(1);
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        world.drop_replies(1);
        a.leave_group("g").await.unwrap();
        world.drop_replies(1);
        a.delete_group("g").await.unwrap();
        drop(held);
        drop(a.lock("x").unwrap().acquire().await.unwrap());
    });
}

#[test]
fn a_wait_goes_on_over_a_lost_session() {
    block_on(async {
        let world = World::named("wait-on");
        let (a, b) = (started("wait-on", "a").await, started("wait-on", "b").await);
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        let mut session = b.session_events();
        let waiter = std::thread::spawn({
            let lock = b.lock("x").unwrap();
            move || block_on(lock.acquire()).unwrap().fencing_token()
        });
        world.expire_session(&MemberId::from("b"));
        while !matches!(session.next().await, Some(SessionEvent::Rejoined(_))) {}
        let token = held.fencing_token();
        held.release().await.unwrap();
        assert!(waiter.join().unwrap() > token);
    });
}

#[test]
fn a_stop_ends_what_waits_and_what_is_held() {
    block_on(async {
        let world = World::named("stop");
        let (a, b) = (started("stop", "a").await, started("stop", "b").await);
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        b.join_group_create("g", &()).await.unwrap();
        let events = b.watch_group("g").await.unwrap();
        let waiter = std::thread::spawn({
            let lock = b.lock("x").unwrap();
            move || block_on(lock.acquire_with(tooz_core::Mode::Exclusive, Wait::Forever))
        });
        while !world.residue().iter().any(|r| r.contains("1 waiting")) {
            std::thread::yield_now();
        }
        b.stop().await.unwrap();
        assert_eq!(waiter.join().unwrap().unwrap_err().kind(), ErrorKind::NotRunning);
        a.stop().await.unwrap();
        assert_eq!(held.loss(), Some(Loss::GivenUp));
        assert_eq!(world.residue(), [""; 0]);
        assert!(
            std::iter::from_fn({
                let mut events = events;
                move || block_on(events.next())
            })
            .last()
            .is_some()
        );
        a.start().await.unwrap();
        drop(held);
        assert!(a.lock("x").unwrap().try_acquire().await.unwrap().is_some());
    });
}

#[test]
fn the_heart_can_be_manual() {
    block_on(async {
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("zake://?timeout=1", "host-1").unwrap();
        let coordinator = builder.heartbeat(Heartbeat::Manual).build().unwrap();
        coordinator.start().await.unwrap();
        let held = coordinator.lock("manual").unwrap().acquire().await.unwrap();
        let began = Instant::now();
        while began.elapsed() < TTL * 3 / 2 {
            let due = coordinator.heartbeat().await.unwrap();
            assert!(due < TTL / 2);
            std::thread::sleep(due);
        }
        held.check().unwrap();
        assert_eq!(held.lost().await, Loss::Expired);
        coordinator.stop().await.unwrap();
    });
}

#[test]
fn with_a_heart_by_hand_nothing_is_taken_again_before_it_beats() {
    block_on(async {
        let world = World::named("by-hand");
        let b = started("by-hand", "b").await;
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://by-hand?timeout=60", "a").unwrap();
        let a = builder.heartbeat(Heartbeat::Manual).build().unwrap();
        a.start().await.unwrap();
        a.join_group_create("g", &()).await.unwrap();
        let mut events = a.session_events();
        for session_too in [true, false] {
            if session_too {
                world.expire_session(&MemberId::from("a"));
            } else {
                b.remove_member("g", "a").await.unwrap();
            }
            let (began, requests) = (Instant::now(), world.requests());
            // Several pauses between attempts: nothing tells that nothing is tried, but time.
            while began.elapsed() < Duration::from_millis(300) {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Closing the lost session, and the heartbeat of the other.
            assert!(world.requests() - requests <= 3, "{}", world.requests() - requests);
            assert!(b.members("g").await.unwrap().is_empty());
            a.heartbeat().await.unwrap();
            while session_too && !matches!(events.next().await, Some(SessionEvent::Rejoined(_))) {}
            while b.members("g").await.unwrap().is_empty() {
                assert!(began.elapsed() < Duration::from_secs(5));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

#[test]
fn leaving_a_group_ends_the_term_in_it() {
    block_on(async {
        let a = started("leave-leading", "a").await;
        assert_eq!(a.campaign("g").await.unwrap_err().kind(), ErrorKind::MemberNotJoined);
        a.join_group_create("g", &()).await.unwrap();
        let term = a.campaign("g").await.unwrap();
        assert_eq!(a.leader("g").await.unwrap(), Some("a".into()));
        a.leave_group("g").await.unwrap();
        assert_eq!(term.loss(), Some(Loss::GivenUp));
        assert_eq!(a.leader("g").await.unwrap(), None);
    });
}

#[test]
fn a_bounded_wait_is_bounded_without_a_session_too() {
    block_on(async {
        let world = World::named("no-session");
        let a = started("no-session", "a").await;
        let mut events = a.session_events();
        world.refuse(true);
        world.expire_session(&MemberId::from("a"));
        while !matches!(events.next().await, Some(SessionEvent::Lost(_))) {}
        let began = Instant::now();
        let wait = Duration::from_millis(50);
        let error = a.lock("x").unwrap().try_acquire_for(wait).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        world.refuse(false);
        assert!(a.lock("x").unwrap().try_acquire().await.unwrap().is_some());
    });
}

#[test]
fn a_stop_between_two_sessions_forgets_the_groups() {
    block_on(async {
        let world = World::named("stop-between");
        let a = started("stop-between", "a").await;
        a.join_group_create("g", &()).await.unwrap();
        let mut events = a.session_events();
        world.refuse(true);
        world.expire_session(&MemberId::from("a"));
        while !matches!(events.next().await, Some(SessionEvent::Lost(_))) {}
        a.stop().await.unwrap();
        world.refuse(false);
        a.start().await.unwrap();
        assert!(a.members("g").await.unwrap().is_empty());
        a.join_group("g", &()).await.unwrap();
    });
}

/// The in-process driver, whose new session after a loss comes in the same moment as a stop.
#[derive(Debug)]
struct AtTheStop {
    inner: Arc<dyn Driver>,
    connected: AtomicBool,
}

/// The events of the coordinator, which end with its stop.
static EVENTS: Mutex<Option<Events<SessionEvent>>> = Mutex::new(None);

#[async_trait]
impl Driver for AtTheStop {
    async fn connect(&self, member: &MemberId) -> Result<Arc<dyn Session>> {
        let session = self.inner.connect(member).await?;
        if self.connected.swap(true, Relaxed) {
            let mut events = EVENTS.lock().unwrap().take().unwrap();
            let mut stopped = async || while events.next().await.is_some() {};
            let mut stopped = std::pin::pin!(stopped());
            // Always among those that run next, so that it goes on before what the stop wakes.
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                stopped.as_mut().poll(cx)
            })
            .await;
        }
        Ok(session)
    }
}

#[test]
fn a_session_that_comes_with_the_stop_is_closed() {
    const AT_THE_STOP: DriverEntry = DriverEntry {
        open: |url, options| {
            let inner = (tooz_memory::DRIVER.open)(url, options)?;
            Ok(Arc::new(AtTheStop { inner, connected: AtomicBool::new(false) }))
        },
        ..tooz_memory::DRIVER
    };
    block_on(async {
        let world = World::named("at-the-stop");
        let registry = Registry::new().with(AT_THE_STOP).unwrap();
        // It is a matter of luck who is heard first, the stop or the session.
        for round in 0..20 {
            let member = MemberId::from(format!("a{round}"));
            let builder = registry.builder("memory://at-the-stop", member.clone()).unwrap();
            let a = builder.build().unwrap();
            a.start().await.unwrap();
            let mut events = a.session_events();
            *EVENTS.lock().unwrap() = Some(a.session_events());
            world.expire_session(&member);
            assert!(matches!(events.next().await, Some(SessionEvent::Lost(_))));
            a.stop().await.unwrap();
        }
        let began = Instant::now();
        while !world.residue().is_empty() {
            assert!(began.elapsed() < TTL, "{:?}", world.residue());
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn what_is_said_right_after_a_loss_counts() {
    block_on(async {
        let world = World::named("after-a-loss");
        let a = started("after-a-loss", "a").await;
        for round in 0..20 {
            a.join_group_create("kept", &0).await.unwrap();
            a.join_group_create("left", &()).await.unwrap();
            let mut events = a.session_events();
            world.expire_session(&MemberId::from("a"));
            // Before or after the engine has joined again: both must come out the same.
            a.update_capabilities("kept", &round).await.unwrap();
            a.leave_group("left").await.unwrap();
            while !matches!(events.next().await, Some(SessionEvent::Rejoined(_))) {}
            let kept = a.member("kept", "a").await.unwrap().capabilities;
            assert_eq!(kept.decode::<i32>().unwrap(), round);
            assert!(a.members("left").await.unwrap().is_empty());
            a.leave_group("kept").await.unwrap();
        }
    });
}

#[test]
fn the_first_loss_is_the_one_that_is_told() {
    block_on(async {
        let world = World::named("first-loss");
        let a = started("first-loss", "a").await;
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        world.expire_session(&MemberId::from("a"));
        assert_eq!(held.lost().await, Loss::SessionEnded);
        a.stop().await.unwrap();
        assert_eq!(held.loss(), Some(Loss::SessionEnded));
    });
}

#[test]
fn tokens_go_on_above_those_of_another_backend() {
    block_on(async {
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = |url| registry.builder(url, "a").unwrap();
        let first = async |builder: tooz_core::Builder| {
            let coordinator = builder.build().unwrap();
            coordinator.start().await.unwrap();
            let guard = coordinator.lock("l").unwrap().acquire().await.unwrap();
            guard.fencing_token().0
        };
        let plain = first(builder("memory://offset-1")).await;
        const HIGHEST: u64 = 1_796_052_475_689_975;
        let raised = first(builder("memory://offset-2?fencing_offset=1796052475689975")).await;
        assert_eq!(raised, plain + HIGHEST);
        assert_eq!(first(builder("memory://offset-3").fencing_offset(HIGHEST)).await, raised);
        for (url, offset) in
            [("memory://offset-4?fencing_offset=-1", 0), ("memory://offset-4", u64::MAX)]
        {
            let error = builder(url).fencing_offset(offset).build().unwrap_err();
            assert_eq!(error.kind(), tooz_core::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("fencing_offset must be a whole"), "{error}");
        }
    });
}

#[test]
fn a_stop_that_ran_out_of_time_takes_nothing_from_the_next_run() {
    block_on(async {
        let world = World::named("late-goodbye");
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://late-goodbye?timeout=2", "a").unwrap();
        let a = builder.operation_timeout(Duration::from_millis(200)).build().unwrap();
        for deaf in [false, true] {
            a.start().await.unwrap();
            for group in ["g", "h"] {
                a.join_group_create(group, &0).await.unwrap();
            }
            world.pause();
            assert_eq!(a.stop().await.unwrap_err().kind(), ErrorKind::TimedOut);
            // What is on its way is served, and what would follow it is not, in the second round.
            world.refuse(deaf);
            world.resume();
            let began = Instant::now();
            while deaf && world.residue().iter().any(|left| left == "member a of g") {
                assert!(began.elapsed() < TTL, "{:?}", world.residue());
                std::thread::sleep(Duration::from_millis(1));
            }
            world.refuse(false);
            a.start().await.unwrap();
            let mut events = a.session_events();
            for group in ["g", "h"] {
                a.join_group(group, &1).await.unwrap();
            }
            // Longer than the old session would live: nothing tells that nothing happens, but time.
            while began.elapsed() < Duration::from_millis(2_200) {
                for group in ["g", "h"] {
                    assert_eq!(a.members(group).await.unwrap().len(), 1, "{group}, deaf: {deaf}");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(world.expire_session(&MemberId::from("a")));
            let rejoined = SessionEvent::Rejoined(vec!["g".into(), "h".into()]);
            while events.next().await.unwrap() != rejoined {}
            a.stop().await.unwrap();
            assert_eq!(world.residue(), [""; 0]);
        }
    });
}

#[test]
fn a_join_that_hangs_delays_no_other_group() {
    block_on(async {
        let world = World::named("hung-join");
        let (a, hung) = (started("hung-join", "a").await, GroupId::from("hung"));
        for group in ["g", "hung"] {
            a.create_group(group).await.unwrap();
        }
        a.join_group("g", &0).await.unwrap();
        world.hang_joins(&hung, true);
        let joining = std::thread::spawn({
            let a = a.clone();
            move || block_on(a.join_group("hung", &0))
        });
        let began = Instant::now();
        while world.joins_hanging() == 0 {
            assert!(began.elapsed() < TTL * 5, "the join is on its way");
        }
        let mut events = a.session_events();
        a.update_capabilities("g", &1).await.unwrap();
        a.campaign("g").await.unwrap().resign().await.unwrap();
        a.leave_group("g").await.unwrap();
        a.join_group("g", &2).await.unwrap();
        assert!(!joining.is_finished());
        world.hang_joins(&hung, false);
        joining.join().unwrap().unwrap();

        // Nor does one that hangs when the session is rebuilt.
        world.hang_joins(&hung, true);
        assert!(world.expire_session(&MemberId::from("a")));
        let began = Instant::now();
        while a.members("g").await.unwrap().is_empty() {
            assert!(began.elapsed() < TTL * 5, "rejoined beside the one that hangs");
        }
        assert!(a.members("hung").await.unwrap().is_empty());
        world.hang_joins(&hung, false);
        let rejoined = SessionEvent::Rejoined(vec!["g".into(), "hung".into()]);
        while events.next().await.unwrap() != rejoined {}
        assert_eq!(a.members("hung").await.unwrap().len(), 1);
        a.stop().await.unwrap();
        assert_eq!(world.residue(), [""; 0]);
    });
}

#[test]
fn whatever_comes_after_a_stop_says_so() {
    block_on(async {
        let world = World::named("after-a-stop");
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..20 {
            let a = started("after-a-stop", "a").await;
            a.join_group_create("g", &()).await.unwrap();
            let term = a.campaign("g").await.unwrap();
            let b = started("after-a-stop", "b").await;
            let held = b.lock("held").unwrap().acquire().await.unwrap();
            world.delay(Duration::from_micros(200));
            type Ask = fn(Coordinator) -> std::pin::Pin<Box<dyn Future<Output = Result<()>>>>;
            let asks: [Ask; 5] = [
                |a| Box::pin(async move { a.members("g").await.map(drop) }),
                |a| Box::pin(async move { a.heartbeat().await.map(drop) }),
                |a| {
                    Box::pin(
                        async move { a.lock("free")?.acquire().await?.release().await.map(drop) },
                    )
                },
                |a| Box::pin(async move { a.lock("held")?.acquire().await.map(drop) }),
                |a| Box::pin(async move { a.update_capabilities("g", &1).await }),
            ];
            let threads: Vec<_> = asks
                .into_iter()
                .map(|ask| {
                    let a = a.clone();
                    std::thread::spawn(move || {
                        loop {
                            if let Err(error) = block_on(ask(a.clone())) {
                                return error;
                            }
                        }
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_micros(round * 100));
            let ended = std::thread::spawn(move || {
                block_on(async {
                    term.lost().await;
                    term.check().unwrap_err()
                })
            });
            a.stop().await.unwrap();
            for thread in threads.into_iter().chain([ended]) {
                seen.insert(format!("{:?}", thread.join().unwrap()));
            }
            seen.insert(format!("{:?}", a.groups().await.unwrap_err()));
            seen.insert(format!("{:?}", a.stop().await.unwrap_err()));
            world.delay(Duration::ZERO);
            drop(held);
        }
        for error in &seen {
            assert!(error.contains("NotRunning") && error.contains("was stopped"), "{seen:#?}");
        }
    });
}

#[test]
fn a_failed_heartbeat_is_repeated_while_there_is_time() {
    block_on(async {
        let world = World::named("in-time");
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://in-time?timeout=1.5", "a").unwrap();
        // The first pause alone is longer than the time to live.
        let patient = tooz_core::RetryPolicy::new(Duration::from_secs(3), Duration::from_secs(3));
        let a = builder.retry(patient).build().unwrap();
        a.start().await.unwrap();
        let mut events = a.session_events();
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        world.refuse(true);
        assert_eq!(events.next().await, Some(SessionEvent::Suspended));
        world.refuse(false);
        assert_eq!(events.next().await, Some(SessionEvent::Resumed));
        held.check().unwrap();
    });
}

#[test]
fn pauses_end_with_the_time_of_who_waits() {
    block_on(async {
        let world = World::named("pauses");
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://pauses?timeout=30", "a").unwrap();
        let patient = tooz_core::RetryPolicy::new(Duration::from_secs(9), Duration::from_secs(9));
        let builder = builder.operation_timeout(Duration::from_millis(300));
        let a = builder.retry(patient).build().unwrap();
        a.start().await.unwrap();
        world.refuse(true);
        let began = Instant::now();
        let failed = a.groups().await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Connection);
        let wait = Duration::from_millis(300);
        let failed = a.lock("x").unwrap().try_acquire_for(wait).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Connection);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        world.refuse(false);
    });
}

#[test]
fn no_session_says_why_and_how_long() {
    block_on(async {
        let world = World::named("why-no-session");
        let a = started("why-no-session", "a").await;
        let mut events = a.session_events();
        world.refuse(true);
        world.expire_session(&MemberId::from("a"));
        while !matches!(events.next().await, Some(SessionEvent::Lost(_))) {}
        let wait = Duration::from_millis(200);
        let error = a.lock("x").unwrap().try_acquire_for(wait).await.unwrap_err();
        let waited: f64 = error.context("seconds").unwrap().parse().unwrap();
        assert!((0.1..3.0).contains(&waited), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("refused"), "{cause}");
        world.refuse(false);
    });
}

#[test]
fn a_wait_ends_in_time_though_the_backend_says_nothing() {
    block_on(async {
        let world = World::named("silent-wait");
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://silent-wait?timeout=60", "a").unwrap();
        let a = builder.build().unwrap();
        a.start().await.unwrap();
        world.pause();
        let (wait, began) = (Duration::from_millis(300), Instant::now());
        let error = a.lock("x").unwrap().try_acquire_for(wait).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        assert_eq!(error.context("seconds"), Some("0.3"), "{error}");
        // What is granted even so is given back.
        world.resume();
        a.lock("x").unwrap().acquire().await.unwrap().release().await.unwrap();
    });
}

#[test]
fn a_stop_asks_for_much_at_once() {
    block_on(async {
        let world = World::named("many");
        let a = started("many", "a").await;
        let mut held = Vec::new();
        for n in 0..256 {
            held.push(a.lock(format!("lock {n}").into_bytes()).unwrap().acquire().await.unwrap());
            a.join_group_create(format!("group {n}").into_bytes(), &()).await.unwrap();
        }
        held.into_iter().for_each(std::mem::forget);
        let delay = Duration::from_millis(10);
        world.delay(delay);
        let began = Instant::now();
        a.stop().await.unwrap();
        assert!(began.elapsed() < delay * 256, "one after the other: {:?}", began.elapsed());
        assert_eq!(world.residue(), [""; 0]);
        world.delay(Duration::ZERO);
    });
}

#[test]
fn no_time_is_too_long() {
    block_on(async {
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let builder = registry.builder("memory://long?timeout=1.8e19", "a").unwrap();
        let most = tooz_core::RetryPolicy::new(Duration::MAX, Duration::MAX);
        let a = builder.operation_timeout(Duration::MAX).retry(most).build().unwrap();
        a.start().await.unwrap();
        let lock = a.lock("x").unwrap();
        let held = lock.try_acquire_for(Duration::MAX).await.unwrap().unwrap();
        assert!(held.deadline().is_none_or(|deadline| deadline > Instant::now()));
        held.check().unwrap();
        a.join_group_create("g", &()).await.unwrap();
        let term = a.campaign_with("g", Wait::For(Duration::MAX)).await.unwrap().unwrap();
        term.resign().await.unwrap();
        World::named("long").drop_replies(1);
        // A pause that does not end is given up with the wait.
        let wait = Duration::from_millis(50);
        let failed = a.lock("y").unwrap().try_acquire_for(wait).await;
        drop((failed, held));
        a.stop().await.unwrap();
    });
}

#[test]
fn a_release_whose_answer_was_lost_is_a_release() {
    block_on(async {
        let world = World::named("release-lost");
        let a = started("release-lost", "a").await;
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        world.drop_replies(2);
        held.release().await.unwrap();
        // But not where it was lost before.
        let held = a.lock("x").unwrap().acquire().await.unwrap();
        assert!(a.lock("x").unwrap().break_lock().await.unwrap());
        world.drop_replies(2);
        assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::LockLost);
    });
}

/// How long a start may take that comes to nothing.
const LIMIT: Duration = Duration::from_millis(200);

/// A driver that knows at its own time limit, which is the engine's, what was wrong; or never.
#[derive(Debug)]
struct SlowToFail {
    ever: bool,
}

#[async_trait]
impl Driver for SlowToFail {
    async fn connect(&self, _: &MemberId) -> Result<Arc<dyn Session>> {
        if !self.ever {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LIMIT).await;
        // As late as the work of many tasks on one thread makes it.
        tokio::time::sleep(LIMIT / 10).await;
        Err(Error::new(ErrorKind::Connection, "db1:6379: connection refused"))
    }
}

#[test]
fn a_start_that_comes_to_nothing_says_why_or_where() {
    const SLOW: DriverEntry = DriverEntry {
        open: |url, _| Ok(Arc::new(SlowToFail { ever: url.path() == "/ever" })),
        ..tooz_memory::DRIVER
    };
    block_on(async {
        let registry = Registry::new().with(SLOW).unwrap();
        for (url, kind, part) in [
            ("memory://db1/ever", ErrorKind::Connection, "db1:6379: connection refused"),
            ("memory://db1:6379,db2/never", ErrorKind::TimedOut, "at db1:6379,db2: no answer"),
        ] {
            let a = registry.builder(url, "a").unwrap().operation_timeout(LIMIT).build().unwrap();
            let error = a.start().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        }
    });
}

#[test]
fn a_time_to_live_comes_before_what_the_url_says() {
    block_on(async {
        let registry = Registry::new().with(tooz_memory::DRIVER).unwrap();
        let url = "memory://a-time-to-live?timeout=60";
        let builder = registry.builder(url, "a").unwrap();
        let a = builder.time_to_live(Duration::from_millis(600)).connect().await.unwrap();
        let guard = a.lock("it").unwrap().acquire().await.unwrap();
        let left = guard.deadline().unwrap() - std::time::Instant::now();
        assert!(left <= Duration::from_millis(540), "{left:?}");
        let error = registry.builder(url, "b").unwrap().time_to_live(Duration::ZERO).build();
        assert!(error.unwrap_err().to_string().contains("the option timeout must be"));
    });
}
