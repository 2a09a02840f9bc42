//! The renewal of everything: the check, the sessions, and a look at all that is held, in requests
//! that are sent together.

use std::sync::Arc;

use tooz_core::{ErrorKind, Hold, Lease, Loss, Moment, Result};

use crate::lock::{Claim, ConsulHold};
use crate::session::Life;

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
    let (renewed, cohorts, looks) = tokio::join!(life.presence.renew(&life.heart), cohorts, looks);
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
    let keys: Vec<_> = held.iter().map(|held| held.claim.key.as_str()).collect();
    let found = life.heart.get_each(&keys).await?;
    let is_gone =
        |held: &&Held| !found.get(&held.claim.key).is_some_and(|entry| held.claim.fits(entry));
    Ok(held.iter().filter(is_gone).collect())
}
