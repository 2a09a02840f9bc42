//! The list of groups. It is an index: whether a group exists, its own item alone says.

use std::collections::BTreeSet;

use rmpv::Value;
use tooz_core::{Error, ErrorKind, GroupId, Result};

use crate::errors;
use crate::life::Life;
use crate::msgpack;
use crate::roster::Roster;
use crate::wire::{Change, How, Item, MSGPACK, Request, Seconds};

fn odd() -> Error {
    Error::new(ErrorKind::Serialization, "the item of the list of groups is no list")
}

fn read(item: &Item) -> Result<BTreeSet<GroupId>> {
    // The original's sets are arrays within an extension.
    let set = match item.value.first() {
        Some(0xc7..=0xc9 | 0xd4..=0xd8) => match rmpv::decode::read_value(&mut &item.value[..]) {
            Ok(Value::Ext(4 | 5, set)) => Some(set),
            _ => return Err(odd()),
        },
        _ => None,
    };
    let groups = msgpack::array(set.as_deref().unwrap_or(&item.value)).ok_or_else(odd)?;
    let name = |group| msgpack::bytes(group).map(GroupId::from).ok_or_else(odd);
    groups.into_iter().map(name).collect()
}

fn write(groups: &BTreeSet<GroupId>) -> Result<Vec<u8>> {
    let mut written = Vec::new();
    msgpack::write_array(groups.len(), &mut written);
    for group in groups {
        msgpack::write_bytes(group.as_bytes(), &mut written)?;
    }
    Ok(written)
}

/// Sees to it that the list has the group.
pub(crate) async fn add(life: &Life, group: &GroupId) -> Result<()> {
    change(life, |groups| groups.insert(group.clone())).await
}

/// The same, if the list as it was seen lacks it: it may have been evicted.
pub(crate) async fn keep(life: &Life, group: &GroupId, seen: Option<&Item>) -> Result<()> {
    match seen {
        Some(item) if read(item)?.contains(group) => Ok(()),
        _ => add(life, group).await,
    }
}

pub(crate) async fn remove(life: &Life, group: &GroupId) -> Result<()> {
    change(life, |groups| groups.remove(group)).await
}

/// Changes the list until `edit` finds nothing to do.
async fn change(life: &Life, mut edit: impl FnMut(&mut BTreeSet<GroupId>) -> bool) -> Result<()> {
    let key = life.keys().groups();
    loop {
        let item = life.link.ask(Request::get(&key)).await?.0.item()?;
        let mut groups = item.as_ref().map(read).transpose()?.unwrap_or_default();
        if !edit(&mut groups) {
            return Ok(());
        }
        let how = item.map_or(How::Add, |item| How::Swap(item.cas));
        let store = Request::store(&key, how, MSGPACK, Seconds::FOR_EVER, write(&groups)?);
        if life.link.ask(store).await?.0.change()? == Change::Done {
            return Ok(());
        }
    }
}

/// The groups that the list has and that exist.
pub(crate) async fn all(life: &Life) -> Result<BTreeSet<GroupId>> {
    let Some(item) = life.link.ask(Request::get(&life.keys().groups())).await?.0.item()? else {
        return Ok(BTreeSet::new());
    };
    // What the original would let nobody create has no item either.
    let named = read(&item)?.into_iter().filter_map(|group| {
        let key = life.keys().group(&group).ok()?;
        Some((group, key))
    });
    let (groups, keys): (Vec<_>, Vec<_>) = named.unzip();
    let requests: Vec<_> = keys.iter().map(|key| Request::get(key)).collect();
    let (replies, _) = life.link.call(&requests).await?;
    if replies.len() != groups.len() {
        return Err(errors::odd_answer());
    }
    let mut existing = BTreeSet::new();
    for (group, reply) in groups.into_iter().zip(replies) {
        if reply.item()?.as_ref().map(Roster::read).transpose()?.flatten().is_some() {
            existing.insert(group);
        }
    }
    Ok(existing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_that_of_the_original() {
        let item = |value: &[u8]| Item { cas: 1, flags: MSGPACK, value: value.into(), left: None };
        let python = b"\x91\xc4\x01g";
        let groups = read(&item(python)).unwrap();
        assert_eq!(groups, [GroupId::from("g")].into());
        assert_eq!(write(&groups).unwrap(), python);
        assert_eq!(read(&item(b"\xd6\x04\x91\xc4\x01g")).unwrap(), groups);
        assert!(read(&item(b"\x01")).is_err());
    }
}
