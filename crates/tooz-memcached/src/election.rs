//! Who leads. Campaigns are locks whose value is the member: see [`lock`](crate::lock).

use tooz_core::{Error, GroupId, MemberId, Result};

use crate::errors;
use crate::life::Life;
use crate::roster::Roster;
use crate::wire::Request;

pub(crate) async fn leader(life: &Life, group: &GroupId) -> Result<Option<MemberId>> {
    let (key, leader) = (life.keys().group(group)?, life.keys().leader(group)?.key);
    let (mut replies, _) = life.link.call(&[Request::get(&key), Request::get(&leader)]).await?;
    let (leader, item) = (replies.pop(), replies.pop());
    let item = item.ok_or_else(errors::odd_answer)?.item()?;
    if item.as_ref().map(Roster::read).transpose()?.flatten().is_none() {
        return Err(Error::group_not_created(group));
    }
    let leader = leader.ok_or_else(errors::odd_answer)?.item()?;
    Ok(leader.map(|item| MemberId::from(item.value)))
}
