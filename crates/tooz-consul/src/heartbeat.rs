//! The renewal of everything: the check, the sessions, and a look at all that is held, in requests
//! that are sent together.

use std::sync::Arc;

use futures_util::future::join_all;
use tooz_core::{Error, ErrorKind, Hold, Lease, Loss, Moment, Result};

use crate::lock::{Claim, ConsulHold};
use crate::session::Life;
use crate::transaction::{LIMIT, Op, Outcome};

/// Something that is ours as long as its key says so.
struct Held {
    claim: Claim,
    what: What,
}

enum What {
    Lock(Arc<ConsulHold>),
    Membership(Lease),
}

pub(crate) async fn renew(life: &Life) -> Result<()> {
    let held = everything(life)?;
    let sent = Moment::now();
    let cohorts = crate::shared::renew_all(life);
    let looks = look(life, &held);
    let (renewed, cohorts, looks) = tokio::join!(life.presence.renew(life.api()), cohorts, looks);
    if renewed.as_ref().is_err_and(|error| error.kind() == ErrorKind::SessionLost) {
        return Err(life.forgotten());
    }
    // What is gone is told even if the rest failed.
    let gone = looks?;
    for held in gone {
        match &held.what {
            What::Lock(hold) => {
                hold.lease().lose(Loss::Taken);
                hold.is_gone();
            }
            What::Membership(lease) => lease.lose(Loss::Taken),
        }
    }
    life.forget_lost_memberships();
    renewed?;
    cohorts?;
    life.lease.renewed(sent);
    Ok(())
}

fn everything(life: &Life) -> Result<Vec<Held>> {
    let mut held: Vec<_> = life
        .holds()
        .into_iter()
        .map(|hold| Held { claim: hold.claim(), what: What::Lock(hold) })
        .collect();
    for (group, lease) in life.memberships() {
        let key = life.keys().member(&group, &life.member)?;
        let claim = Claim { key, session: life.presence.members.clone(), value: None };
        held.push(Held { claim, what: What::Membership(lease) });
    }
    Ok(held)
}

/// What of it is ours no more.
async fn look<'h>(life: &Life, held: &'h [Held]) -> Result<Vec<&'h Held>> {
    let chunks = held.chunks(LIMIT).map(|chunk| look_at(life, chunk));
    let mut gone = Vec::new();
    for chunk in join_all(chunks).await {
        gone.extend(chunk?);
    }
    Ok(gone)
}

async fn look_at<'h>(life: &Life, held: &'h [Held]) -> Result<Vec<&'h Held>> {
    let (mut present, mut gone): (Vec<&Held>, Vec<&Held>) = (held.iter().collect(), Vec::new());
    // A key that is missing hides the others: once more without it.
    while !present.is_empty() {
        let ops: Vec<_> = present.iter().map(|held| Op::get(&held.claim.key)).collect();
        match life.api().read(&ops).await? {
            Outcome::Done(done) => {
                gone.extend(present.iter().filter(|held| {
                    !done.entry(&held.claim.key).is_some_and(|entry| held.claim.fits(entry))
                }));
                break;
            }
            Outcome::Refused(refusal) if refusal.failed.is_empty() => {
                return Err(Error::new(ErrorKind::Backend, "the server's answer makes no sense"));
            }
            Outcome::Refused(refusal) => {
                let mut position = 0;
                present.retain(|held| {
                    let missing = refusal.has(position);
                    position += 1;
                    if missing {
                        gone.push(*held);
                    }
                    !missing
                });
            }
        }
    }
    Ok(gone)
}
