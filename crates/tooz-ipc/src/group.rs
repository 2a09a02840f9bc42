//! Groups: those of the file driver, and Python's list of them beside.

use std::collections::BTreeSet;

use tooz_core::{Error, ErrorKind, GroupId, Result};
use tracing::warn;

use crate::group_list::{self, GroupList};
use crate::session::IpcSession;

impl IpcSession {
    pub(crate) async fn create(&self, group: &GroupId) -> Result<()> {
        let list = GroupList::open(&self.place, &self.file).await?;
        self.file.create_group(group).await?;
        let groups = self.file.groups().await?;
        publish(&list, &groups);
        Ok(())
    }

    pub(crate) async fn delete(&self, group: &GroupId) -> Result<()> {
        let list = GroupList::open(&self.place, &self.file).await?;
        self.file.delete_group(group).await?;
        let groups = self.file.groups().await?;
        publish(&list, &groups);
        Ok(())
    }

    pub(crate) async fn all(&self) -> Result<BTreeSet<GroupId>> {
        let list = GroupList::open(&self.place, &self.file).await?;
        let groups = self.file.groups().await?;
        publish(&list, &groups);
        Ok(groups)
    }

    /// Lists the groups for Python again if it has removed the list.
    pub(crate) async fn list_again(&self) -> Result<()> {
        if group_list::is_current(&self.place)? || self.file.groups().await?.is_empty() {
            return Ok(());
        }
        self.all().await.map(drop)
    }

    /// After this error: whether Python has created the group and it is known here only now.
    pub(crate) async fn learns_of(&self, group: &GroupId, error: &Error) -> Result<bool> {
        if error.kind() != ErrorKind::GroupNotCreated || !group_list::is_listed(&self.place, group)?
        {
            return Ok(false);
        }
        Ok(self.all().await?.contains(group))
    }
}

/// Shows Python which groups there are. What was done to a group is done: if Python cannot be told
/// now, the next change or heartbeat does.
fn publish(list: &GroupList<'_>, groups: &BTreeSet<GroupId>) {
    if let Err(error) = list.publish(groups) {
        warn!(%error, "Python is not told of the groups");
    }
}
