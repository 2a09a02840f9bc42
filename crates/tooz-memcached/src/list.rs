//! The list of groups. It is an index: whether a group exists, its own item alone says.

use std::collections::BTreeSet;

use rmpv::Value;
use tooz_core::{Error, ErrorKind, GroupId, Result};

use crate::msgpack;
use crate::state::State;
use crate::wire::{Change, How, Item, MSGPACK, Request, Seconds};

fn odd() -> Error {
    Error::new(ErrorKind::Serialization, "the item of the list of groups is malformed")
}

pub(crate) fn read(item: &Item) -> Result<BTreeSet<GroupId>> {
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

/// Ensures that the list has the group.
pub(crate) async fn add(state: &State, group: &GroupId) -> Result<()> {
    change(state, |groups| groups.insert(group.clone())).await
}

/// The same, if the list as it was seen lacks it: it may have been evicted.
pub(crate) async fn keep(state: &State, group: &GroupId, seen: Option<&Item>) -> Result<()> {
    match seen {
        Some(item) if read(item)?.contains(group) => Ok(()),
        _ => add(state, group).await,
    }
}

pub(crate) async fn remove(state: &State, group: &GroupId) -> Result<()> {
    change(state, |groups| groups.remove(group)).await
}

/// Changes the list until `edit` finds nothing to do.
async fn change(state: &State, mut edit: impl FnMut(&mut BTreeSet<GroupId>) -> bool) -> Result<()> {
    let key = state.keys().groups();
    loop {
        let item = state.client.get(&key).await?;
        let mut groups = item.as_ref().map(read).transpose()?.unwrap_or_default();
        if !edit(&mut groups) {
            return Ok(());
        }
        let how = item.map_or(How::Add, |item| How::Swap(item.cas));
        let store = Request::store(&key, how, MSGPACK, Seconds::FOR_EVER, write(&groups)?);
        if state.client.change(store).await? == Change::Done {
            return Ok(());
        }
    }
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
