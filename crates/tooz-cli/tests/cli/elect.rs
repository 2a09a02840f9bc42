use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Place, Running, until};

/// The token in a line of [`LEAD`] for the group `g`.
fn token(line: &str) -> u64 {
    let [token, fence, "g"] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("no line of a leader: {line}");
    };
    assert_eq!(fence, format!("{}:{token}", tooz::FenceName::of_term("g")));
    token.parse().unwrap()
}

const LEAD: &str = "echo ready; echo $TOOZ_FENCING_TOKEN $TOOZ_FENCE $TOOZ_GROUP; exec sleep 120";

#[test]
fn the_exit_code_is_that_of_the_command_and_nothing_is_left() {
    let place = Place::new();
    let done = place.run(["elect", "g", "--", "sh", "-c", "exit 5"]);
    assert_eq!(done.code, 5);
    assert!(done.err.contains("leading g, with the token "), "{done:?}");
    let leader = place.run(["leader", "g", "--json"]);
    assert_eq!((leader.code, leader.out.as_str()), (1, "{\"leader\":null}\n"));
    let leader = place.run(["leader", "g"]);
    assert_eq!((leader.code, leader.err.as_str()), (1, "tooz: nobody leads g\n"));
    assert_eq!(place.run(["members", "g", "--json"]).json(), json!([]));
}

#[test]
fn one_leads_and_the_next_takes_over_from_a_killed_one() {
    let place = Place::new();
    let mut first = place.start(&["--member", "one", "elect", "g"], LEAD);
    let earlier = token(&first.line());
    let next = ["--member", "two", "elect", "g", "--", "sh", "-c", LEAD];
    let mut second = Running::start(&mut place.tooz(next));
    until("two are in the group", || place.run(["members", "g"]).out == "one\ntwo\n");
    assert_eq!(place.run(["leader", "g", "--json"]).json(), json!({"leader": "one"}));

    first.signal(Signal::SIGKILL);
    assert_eq!(second.line(), "ready");
    assert!(token(&second.line()) > earlier);
    assert_eq!(place.run(["leader", "g"]).out, "two\n");
    assert_eq!(place.run(["members", "g"]).out, "two\n");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.finish().code, -15);
    drop(first);
}

#[test]
fn leaders_are_watched() {
    let place = Place::new();
    let first = place.start(&["--member", "one", "elect", "g"], LEAD);
    let mut text = Running::start(&mut place.tooz(["leader", "--watch", "g"]));
    let mut watch = Running::start(&mut place.tooz(["--json", "leader", "--watch", "g"]));
    assert_eq!(watch.event(), json!({"event": "leader", "leader": "one"}));
    first.signal(Signal::SIGTERM);
    assert_eq!(watch.event(), json!({"event": "leader", "leader": null}));
    assert_eq!(
        (text.told().as_str(), text.told().as_str()),
        ("leader       one", "leader       nobody")
    );
    // Its own session: what follows a mark may have changed meanwhile.
    place.end_sessions();
    assert_eq!(watch.event()["event"], "lost");
    assert_eq!(watch.event(), json!({"event": "reconnected"}));
    let second = place.start(&["--member", "two", "elect", "g"], LEAD);
    while watch.event() != json!({"event": "leader", "leader": "two"}) {}
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.finish().code, 0);
    drop(second);
}

#[test]
fn a_lost_term_stops_the_command_and_another_campaign_begins() {
    let place = Place::new();
    let mut leader = place.start(&["--member", "one", "elect", "g"], LEAD);
    let earlier = token(&leader.line());
    place.end_sessions();
    assert_eq!(leader.line(), "ready");
    assert!(token(&leader.line()) > earlier);
    assert_eq!(place.run(["leader", "g"]).out, "one\n");
    leader.signal(Signal::SIGTERM);
    let done = leader.finish();
    assert_eq!(done.code, -15);
    assert!(done.err.contains("no longer leading g: "), "{done:?}");
}

#[test]
fn once_is_once() {
    let place = Place::new();
    let leader = place.start(&["elect", "--once", "g"], LEAD);
    place.end_sessions();
    assert_eq!(leader.finish().code, 76);
}

#[test]
fn a_signal_ends_the_campaign() {
    let place = Place::new();
    let first = place.start(&["--member", "one", "elect", "g"], LEAD);
    let next = ["--member", "two", "elect", "g", "--", "true"];
    let second = Running::start(&mut place.tooz(next));
    until("two are in the group", || place.run(["members", "g"]).out == "one\ntwo\n");
    second.signal(Signal::SIGINT);
    assert_eq!(second.finish().code, -2);
    assert_eq!(place.run(["members", "g"]).out, "one\n", "it left");
    drop(first);
}
