//! What the measures are.

/// A measure's name, how it is measured, and what a good reading is.
type Measure = (&'static str, &'static str, &'static str);

/// In the order of the page.
#[rustfmt::skip]
pub(super) const MEASURES: &[Measure] = &[
    ("read",
     "One round trip of the bare client that reads a key; on `file` and `ipc` the bare system calls.",
     "This is the limit of every operation that has to ask the backend."),
    ("write",
     "One round trip of the bare client that writes as an acquisition would. All \"×\" on this page count these.",
     "This is the limit of every operation that changes something."),
    ("acquire and release",
     "A free lock is acquired and released again; the time of the pair.",
     "Each of the two asks the backend, so about 2 × is the floor."),
    ("hand-off",
     "Processes contend for a lock and hold it for 1 ms; from a release until another one, that waited, has it. \
      `raw` is two bare clients: one makes a request, of which the backend tells the other, and that one writes.",
     "A backend that pushes needs about two round trips, however many wait. A contestant that polls needs half an interval."),
    ("changes of the holder a second",
     "How often the contended lock goes to another process.",
     "More is better, but only together with the fairness: a process that keeps the lock to itself is fast too."),
    ("fairness",
     "Jain's index of how often each process had the lock.",
     "1 when all had it equally often; one over the number of processes when one had it always."),
    ("worst wait",
     "The longest that any process waited for the contended lock, of each round of the contest.",
     "In a fair queue it is little more than what all the others need for their turns."),
    ("requests per hand-off",
     "The requests to the server for each turn, while a crowd of waiters in ten processes holds the lock in turn.",
     "The same for ten waiters and a thousand. If it grows with their number, each release wakes them all: a herd."),
    ("create a group", "A new group is created.", "One or two round trips."),
    ("join", "A member joins an existing group.", "One or two round trips."),
    ("members", "The names of a small group's members are read.", "One round trip."),
    ("leave", "A member leaves its group.", "One or two round trips."),
    ("delete a group", "An empty group is deleted.", "One or two round trips."),
    ("members with capabilities",
     "All members of a group are read with their capabilities; `raw` reads the same bytes with the bare client.",
     "Near `raw`, and growing as `raw` grows: not a round trip for each member."),
    ("join to event",
     "From the return of a member's join until another process that watches the group learns of it.",
     "A backend that pushes needs about a round trip. Polling every 100 ms needs 50 ms."),
    ("death to event",
     "A member's process is killed; the time until another process learns that it left.",
     "The time to live where a lease has to end; next to nothing where the end of a connection shows it."),
    ("leader killed to next leader",
     "The leader's process is killed; the time until another candidate leads.",
     "The time to live, below, and little more."),
    ("time to live",
     "The setting of this run for the two above: after this time the backend takes a silent process for dead.",
     "0 where the end of a connection or of a process shows it."),
    ("renewal",
     "One renewal of all locks that a coordinator holds.",
     "One pipelined exchange, or one for the whole session: not a round trip for each lock."),
    ("memory: idle coordinator",
     "The resident memory of a process with one idle coordinator, its runtime and its libraries.",
     "For Python this is mostly the interpreter."),
    ("memory: 1,000 locks",
     "The resident memory of such a process once its coordinator holds a thousand locks.",
     "Above the idle one, a kilobyte or so for each lock."),
    ("memory: group of 1,000",
     "The resident memory of such a process once it watches a group of a thousand members.",
     "Above the idle one, a few times the names themselves."),
    ("start",
     "From nothing to a connected coordinator, within a running process.",
     "Milliseconds."),
    ("engine hop",
     "A call that needs no backend: from the caller's task to the engine's thread and back.",
     "Little compared with a round trip. Every operation pays it once."),
    ("ring: 1,000 keys",
     "A thousand keys are placed on a hash ring of a hundred nodes.",
     "A microsecond for a key, or less."),
];

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Less,
    More,
}

pub(super) fn better(name: &str) -> Better {
    match name {
        "changes of the holder a second" | "fairness" => Better::More,
        _ => Better::Less,
    }
}

/// What its size counts.
pub(super) fn sized_by(name: &str) -> &'static str {
    match name {
        "hand-off" | "changes of the holder a second" | "fairness" | "worst wait" => "processes",
        "requests per hand-off" => "waiters",
        "members with capabilities" => "members",
        "renewal" => "locks",
        _ => "size",
    }
}

/// Whether its time is one of round trips, so that their number says something.
pub(super) fn is_round_trips(name: &str) -> bool {
    let others = ["death to event", "leader killed to next leader", "time to live", "start"];
    !others.contains(&name)
}

/// Where on the page it is; unknown ones come last.
pub(super) fn place(name: &str) -> usize {
    MEASURES.iter().position(|(known, ..)| *known == name).unwrap_or(usize::MAX)
}
