//! Groups, what is told of them, and reading them whole.

use tooz_benches::protocol::Ask;
use tooz_benches::record::{Book, RAW, Unit};
use tooz_benches::statistics::Key;

use super::{Form, Round, fresh, settle, slug, times};
use crate::contestant::Contestant;
use crate::setups::{OURS, Setup};

const STEPS: [&str; 5] = ["create a group", "join", "members", "leave", "delete a group"];

const MEMBERS: &str = "members with capabilities";

/// Each step of a group's life.
pub(super) fn steps(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let (batches, count) = form.choose((20, 5), (2, 2));
    let group = fresh("group");
    let mut round = Round::of(setup, "create a group", setup.coordinators(), book);
    let all = round.alternate(batches, book, |entrant| {
        let group = format!("{group}-{}", slug(&entrant.name));
        Ask::Group { group, count }
    });
    for (contestant, answers) in all {
        for (place, measure) in STEPS.into_iter().enumerate() {
            let steps = answers.iter().flat_map(|answer| &answer.steps);
            let values = steps.map(|step| step[place] as f64).collect();
            book.note(&Key::of(setup.name, &contestant, measure), Unit::Nanoseconds, values);
        }
    }
    Ok(())
}

/// From a join, and from a death, to the event in another process.
pub(super) fn events(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    for contestant in setup.coordinators() {
        let key = |measure| Key::of(setup.name, &contestant.name, measure);
        let result = joins(contestant, form.choose(40, 3));
        settle(book, &key("join to event"), Unit::Nanoseconds, result);
        let result = deaths(contestant, setup.short, form.choose(3, 1));
        settle(book, &key("death to event"), Unit::Nanoseconds, result);
    }
    Ok(())
}

fn joins(contestant: &Contestant, count: usize) -> anyhow::Result<Vec<f64>> {
    let group = fresh("joins");
    let mut watcher = contestant.enter(&fresh("watcher"))?;
    watcher.ask(&Ask::Join { group: group.clone() })?;
    watcher.ask(&Ask::Watch { group: group.clone() })?;
    let member = fresh("joiner");
    let mut joiner = contestant.enter(&member)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let event = |joined| Ask::Event { member: member.clone(), joined, millis: 30_000 };
        watcher.tell(&event(true))?;
        let joined = joiner.ask(&Ask::Join { group: group.clone() })?.at.unwrap_or_default();
        let told = watcher.answer()?.at.unwrap_or_default();
        // It may be told before the joiner's own call is back.
        values.push(told.saturating_sub(joined) as f64);
        watcher.tell(&event(false))?;
        joiner.ask(&Ask::Leave { group: group.clone() })?;
        watcher.answer()?;
    }
    Ok(values)
}

fn deaths(contestant: &Contestant, options: &str, count: usize) -> anyhow::Result<Vec<f64>> {
    let group = fresh("deaths");
    let mut watcher = contestant.enter_with(&fresh("watcher"), options)?;
    watcher.ask(&Ask::Join { group: group.clone() })?;
    watcher.ask(&Ask::Watch { group: group.clone() })?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let member = fresh("mortal");
        let mut mortal = contestant.enter_with(&member, options)?;
        watcher.tell(&Ask::Event { member: member.clone(), joined: true, millis: 30_000 })?;
        mortal.ask(&Ask::Join { group: group.clone() })?;
        watcher.answer()?;
        watcher.tell(&Ask::Event { member, joined: false, millis: 60_000 })?;
        let killed = crate::worker::now();
        mortal.kill();
        values.push(watcher.answer()?.at.unwrap_or_default().saturating_sub(killed) as f64);
    }
    Ok(values)
}

/// All members with their capabilities, of growing groups.
pub(super) fn members(setup: &Setup, form: Form, book: &mut Book) -> anyhow::Result<()> {
    let sizes: &[usize] = form.choose(&[10, 100, 1000], &[10]);
    let group = fresh("crowd");
    let mut crowd = setup.contestant(OURS)?.enter(&fresh("member"))?;
    let readers = setup.coordinators().chain(setup.contestants.iter().filter(|c| c.name == RAW));
    let mut round = Round::of(setup, MEMBERS, readers, book);
    let mut present = 0;
    for &size in sizes {
        let more = Ask::Crowd { group: group.clone(), count: size - present, bytes: 100 };
        if let Err(error) = crowd.ask(&more) {
            book.miss(&Key::of(setup.name, OURS, MEMBERS).sized(size), &format!("{error:#}"));
            break;
        }
        present = size;
        let count = form.choose(3, 1);
        let ask = |_: &_| Ask::ReadGroup { group: group.clone(), count };
        let all = round.alternate(form.choose(10, 2), book, ask);
        for (contestant, answers) in all {
            let key = Key::of(setup.name, &contestant, MEMBERS).sized(size);
            book.note(&key, Unit::Nanoseconds, times(&answers));
        }
    }
    Ok(())
}
