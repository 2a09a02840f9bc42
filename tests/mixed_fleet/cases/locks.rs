//! Locks.

use std::time::Duration;

use serde_json::json;

use super::{SOON, throughout};
use crate::mixed_fleet::arena::{Arena, Times};
use crate::mixed_fleet::peer::{LIMIT, Outcome, Side, must};

/// The longest time that a contender holds the lock, in seconds.
const HOLD: f64 = 0.02;

/// The longest rest between two turns, in seconds. Python looks for a free lock every second on
/// some backends: ours must leave it free now and then, or no look would ever find it so.
const fn rest(side: Side) -> f64 {
    match side {
        Side::Rust => 0.15,
        Side::Python => 0.02,
    }
}

/// Eight processes want one lock; a file that only one can make judges who is inside.
pub(super) fn contention(arena: &Arena) -> Outcome {
    use Side::{Python, Rust};
    let sides = [Rust, Python, Rust, Python, Rust, Python, Rust, Python];
    let mut peers = arena.peers(&sides, Times::Default)?;
    let (name, time) = (arena.name("lock"), arena.form.contention());
    for peer in &mut peers {
        let (folder, rest) = (arena.folder.path(), rest(peer.side));
        peer.tell(
            "contend",
            json!({
                "name": name, "folder": folder, "seconds": time.as_secs_f64(),
                "hold": HOLD, "rest": rest,
            }),
        )?;
    }
    let (mut of_rust, mut of_python) = (0, 0);
    for peer in &mut peers {
        let answer = peer.answer_in(time + LIMIT)?;
        let answer = answer.ok_or_else(|| format!("{} never came to an end", peer.member))?;
        let turns: u64 = peer.good("contend", answer)?;
        *if peer.side == Rust { &mut of_rust } else { &mut of_python } += turns;
    }
    println!("{}: {of_rust} turns of Rust, {of_python} of Python", arena.row.setup.name);
    must!(of_rust > 0 && of_python > 0, "{of_rust} turns of Rust, {of_python} of Python");
    Ok(())
}

/// Who holds a lock keeps the other side out, whatever the lock is called.
pub(super) fn names(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    for name in arena.row.names {
        let name = arena.name(name);
        must!(rust.takes(&name)?, "Rust cannot take {name}, which is free");
        must!(!python.takes(&name)?, "Python takes {name}, which Rust holds");
        rust.unlock(&name)?;
        must!(python.takes(&name)?, "Python cannot take {name}, which Rust gave back");
        must!(!rust.takes(&name)?, "Rust takes {name}, which Python holds");
        python.unlock(&name)?;
    }
    Ok(())
}

/// Who waits gets the lock when the other side gives it back.
pub(super) fn handed_over(arena: &Arena) -> Outcome {
    let (mut rust, mut python) = arena.both(Times::Default)?;
    let name = arena.name("lock");
    must!(rust.takes(&name)?, "the lock is not free");
    python.waits(&name)?;
    rust.unlock(&name)?;
    let after = python.has_it_in(SOON)?;
    rust.waits(&name)?;
    // Something may be wrong that lets it in at once.
    must!(rust.answer_in(Duration::from_millis(300))?.is_none(), "Rust is in beside Python");
    python.unlock(&name)?;
    println!(
        "{}: Python had it after {after:?}, Rust after {:?}",
        arena.row.setup.name,
        rust.has_it_in(SOON)?
    );
    rust.unlock(&name)
}

/// What a killed process held becomes free for the other side, and not before.
pub(super) fn killed_holder(arena: &Arena, side: Side) -> Outcome {
    let mut holder = arena.peer(side)?;
    let mut waiter = arena.peer(side.other())?;
    let name = arena.name("lock");
    must!(holder.takes(&name)?, "the lock is not free");
    waiter.waits(&name)?;
    let early = waiter.answer_in(Duration::from_millis(300))?;
    must!(early.is_none(), "{} is in beside {}", waiter.member, holder.member);
    holder.kill();
    let after = waiter.has_it_in(arena.row.dead_after)?;
    println!("{}: {side:?} killed, free after {after:?}", arena.row.setup.name);
    waiter.unlock(&name)?;
    Ok(())
}

/// Our readers share a lock, and neither lets the original in nor come in beside it.
pub(super) fn shared(arena: &Arena) -> Outcome {
    let mut peers = arena.peers(&[Side::Rust, Side::Rust, Side::Python], Times::Default)?;
    let [one, other, python] = &mut peers[..] else { unreachable!("three were asked for") };
    let name = arena.name("lock");
    must!(one.takes_shared(&name)?, "the lock is not free");
    must!(other.takes_shared(&name)?, "two readers do not share");
    must!(!python.takes(&name)?, "Python is in beside readers");
    one.unlock(&name)?;
    must!(!python.takes(&name)?, "Python is in beside a reader");
    other.unlock(&name)?;
    must!(python.takes(&name)?, "the last reader left the lock taken");
    must!(!one.takes_shared(&name)?, "a reader is in beside Python");
    must!(!other.takes(&name)?, "Rust is in beside Python");
    python.unlock(&name)?;
    must!(one.takes_shared(&name)?, "Python left the lock taken");
    one.unlock(&name)
}

pub(super) fn kept_with_the_shortest_time(arena: &Arena) -> Outcome {
    kept(arena, Times::Short)
}

pub(super) fn kept_with_the_default_time(arena: &Arena) -> Outcome {
    kept(arena, Times::Default)
}

/// A lock that is held for longer than its time to live stays held.
fn kept(arena: &Arena, times: Times) -> Outcome {
    let (mut rust, mut python) = arena.both(times)?;
    let ours = arena.name("of-rust");
    let theirs = arena.name("of-python");
    must!(rust.takes(&ours)?, "the lock is not free");
    must!(python.takes(&theirs)?, "the lock is not free");
    throughout(arena.outliving(times), || {
        must!(!python.takes(&ours)?, "Python took what Rust holds");
        must!(!rust.takes(&theirs)?, "Rust took what Python holds");
        Ok(())
    })?;
    rust.unlock(&ours)?;
    python.unlock(&theirs)
}
