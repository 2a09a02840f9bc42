//! Groups: a node each, whose ephemeral children are the members.

use std::collections::BTreeSet;
use std::sync::Arc;

use tooz_core::{
    Capabilities, Error, GroupFeed, GroupId, Groups, JoinRequest, Lease, Loss, Member, MemberId,
    OperationId, Result, async_trait,
};
use zookeeper_client::{CreateMode, Error as Cause, MultiWriteError};

use crate::errors::{Failure, broke_twice, translate};
use crate::keys;
use crate::state::State;
use crate::watch::{self, member_of, watch_over};

/// The groups of a session.
#[derive(Debug)]
pub(crate) struct ZooKeeperGroups(pub(crate) Arc<State>);

#[async_trait]
impl Groups for ZooKeeperGroups {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let State { client, config, .. } = &*self.0;
        let node = config.keys.group(group)?;
        // Python peers leave it empty and never read it. It tells whether a lost reply was a yes.
        let by = OperationId::random();
        let options = &config.node(CreateMode::Persistent);
        loop {
            match client.create(&node, by.as_bytes(), options).await {
                Ok(_) => return Ok(()),
                Err(Failure { cause: Cause::NoNode, .. }) => {
                    client.mkdir(config.keys.base(), options).await?;
                }
                Err(Failure { cause: Cause::NodeExists, again: true }) => {
                    match client.data(&node).await {
                        Ok((data, _)) if data == by.as_bytes() => return Ok(()),
                        Ok(_) => return Err(Error::group_already_exists(group)),
                        // Ours or not, it was deleted since.
                        Err(Failure { cause: Cause::NoNode, .. }) => {}
                        Err(failure) => return Err(failure.into()),
                    }
                }
                Err(Failure { cause: Cause::NodeExists, .. }) => {
                    return Err(Error::group_already_exists(group));
                }
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Together with the empty queue for its leadership, if it has one.
    async fn delete(&self, group: &GroupId) -> Result<()> {
        let keys = self.0.keys();
        let (node, leader) = (&*keys.group(group)?, &*keys.leader(group)?.queue);
        let mut again = false;
        loop {
            let deleted = self.0.client.call(|client| async move {
                match client.delete(node, None).await {
                    // Nobody but the queue of its leadership may be in it.
                    Err(Cause::NotEmpty) => {}
                    deleted => return deleted,
                }
                let mut both = client.new_multi_writer();
                both.add_delete(leader, None)?;
                both.add_delete(node, None)?;
                match both.commit().await {
                    Err(MultiWriteError::OperationFailed { source: Cause::NoNode, .. }) => {
                        client.delete(node, None).await
                    }
                    Err(MultiWriteError::OperationFailed { source, .. })
                    | Err(MultiWriteError::RequestFailed { source }) => Err(source),
                    Ok(_) => Ok(()),
                }
            });
            let failure = match deleted.await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            again |= failure.again;
            match failure.cause {
                // If a repeated request finds nothing to undo, the first one did it.
                Cause::NoNode if again => return Ok(()),
                Cause::NoNode => return Err(Error::group_not_created(group)),
                // Candidates are members, or of another kind; a queue alone may just have been made.
                Cause::NotEmpty if !self.has_only_an_empty_queue(node, leader).await? => {
                    return Err(Error::group_not_empty(group));
                }
                Cause::NotEmpty => {}
                _ => return Err(failure.into()),
            }
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        match self.0.client.synced_children(self.0.keys().base()).await {
            Ok(children) => {
                Ok(children.into_iter().filter(|c| keys::is_group(c)).map(GroupId::from).collect())
            }
            Err(Failure { cause: Cause::NoNode, .. }) => Ok(BTreeSet::new()),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let state = &self.0;
        let JoinRequest { group, capabilities, again: rejoin, .. } = request;
        let node = state.keys().member(&group, &state.member)?;
        let data = capabilities.as_msgpack();
        state.config.must_fit(&node, data)?;
        let options = &state.config.node(CreateMode::Ephemeral);
        loop {
            let again = match state.client.create(&node, data, options).await {
                Ok((stat, _)) => {
                    state.must_own(&stat)?;
                    break;
                }
                Err(Failure { cause: Cause::NoNode, .. }) => {
                    return Err(Error::group_not_created(&group));
                }
                Err(Failure { cause: Cause::NodeExists, again }) => again,
                Err(failure) => return Err(failure.into()),
            };
            match state.client.stat(&node).await? {
                // It has left meanwhile.
                None => {}
                Some(stat) if state.owns(&stat) && (again || rejoin) => break,
                // What an earlier session of ours left behind.
                Some(stat) if rejoin => {
                    match state.client.delete(&node, Some(stat.version)).await {
                        Ok(()) | Err(Failure { cause: Cause::NoNode | Cause::BadVersion, .. }) => {}
                        Err(failure) => return Err(failure.into()),
                    }
                }
                Some(_) => return Err(Error::member_already_exists(&group, &state.member)),
            }
        }
        let lease = state.lease.child();
        watch_over(state, node, lease.clone());
        state.memberships.insert(group, lease.clone());
        Ok(lease)
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let state = &self.0;
        let node = state.keys().member(group, &state.member)?;
        if !state.is_member_of(group) {
            return Err(self.not_joined(group, &state.member).await);
        }
        let was_there = match state.client.delete(&node, None).await {
            Ok(()) | Err(Failure { cause: Cause::NoNode, again: true }) => true,
            Err(Failure { cause: Cause::NoNode, .. }) => false,
            Err(failure) => return Err(failure.into()),
        };
        if let Some(lease) = state.memberships.remove(group) {
            lease.lose(Loss::GivenUp);
        }
        if was_there { Ok(()) } else { Err(self.not_joined(group, &state.member).await) }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let state = &self.0;
        let node = &*state.keys().member(group, &state.member)?;
        let data = capabilities.as_msgpack();
        if !state.is_member_of(group) {
            return Err(self.not_joined(group, &state.member).await);
        }
        state.config.must_fit(node, data)?;
        match state
            .client
            .call(|client| async move { client.set_data(node, data, None).await })
            .await
        {
            Ok(_) => Ok(()),
            Err(Failure { cause: Cause::NoNode, .. }) => {
                Err(self.not_joined(group, &state.member).await)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Deletes a member's node, whoever made it. The member's own watch on it tells the member.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let client = &self.0.client;
        let node = &*self.0.keys().member(group, member)?;
        let (mut found, mut lost) = (None, false);
        loop {
            let now = client.synced_stat(node).await?.map(|stat| stat.czxid);
            match (found, now) {
                (None, None) => return Err(self.not_joined(group, member).await),
                // It is gone, or has joined again: the request whose reply was lost was carried out.
                (Some(_), now) if now != found => return Ok(()),
                _ => found = now,
            }
            match client.once(|client| async move { client.delete(node, None).await }).await {
                Ok(_) => return Ok(()),
                Err(Cause::ConnectionLoss) if lost => return Err(broke_twice()),
                Err(Cause::ConnectionLoss) => lost = true,
                Err(Cause::NoNode) => return Err(self.not_joined(group, member).await),
                Err(cause) => return Err(translate(cause)),
            }
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let names = self.member_names(group, &self.0.keys().group(group)?).await?;
        Ok(names.into_iter().map(MemberId::from).collect())
    }

    /// The names in one round trip, and what is in all of them in another.
    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let node = &*self.0.keys().group(group)?;
        let names = &*self.member_names(group, node).await?;
        let read = self.0.client.call(|client| async move {
            let data = names.iter().map(|name| client.get_data(&format!("{node}/{name}")));
            let mut members = Vec::new();
            for (name, data) in names.iter().zip(data.collect::<Vec<_>>()) {
                match data.await {
                    Ok((data, stat)) => members.push(member_of(name.as_str(), data, &stat)),
                    // It has left meanwhile.
                    Err(Cause::NoNode) => {}
                    Err(cause) => return Err(cause),
                }
            }
            Ok(members)
        });
        let mut members = read.await?;
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(members)
    }

    async fn member(&self, group: &GroupId, member: &MemberId) -> Result<Member> {
        let node = &*self.0.keys().member(group, member)?;
        let read = self.0.client.call(|client| async move {
            let (synced, data) = (client.sync(node), client.get_data(node));
            synced.await?;
            data.await
        });
        match read.await {
            Ok((data, stat)) => Ok(member_of(member, data, &stat)),
            Err(Failure { cause: Cause::NoNode, .. }) => Err(self.not_joined(group, member).await),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        watch::group(&self.0, group, feed).await
    }
}

impl ZooKeeperGroups {
    async fn has_only_an_empty_queue(&self, node: &str, leader: &str) -> Result<bool> {
        let children = self.0.client.call(|client| async move {
            let (children, waiting) = (client.list_children(node), client.list_children(leader));
            Ok((children.await?, waiting.await))
        });
        match children.await {
            Ok((children, waiting)) => {
                let members = children.iter().any(|child| keys::is_member(child));
                Ok(!members && waiting.is_ok_and(|waiting| waiting.is_empty()))
            }
            Err(Failure { cause: Cause::NoNode, .. }) => Ok(true),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Why there is no such member.
    async fn not_joined(&self, group: &GroupId, member: &MemberId) -> Error {
        let node = match self.0.keys().group(group) {
            Ok(node) => node,
            Err(error) => return error,
        };
        match self.0.client.stat(&node).await {
            Ok(None) => Error::group_not_created(group),
            Ok(Some(_)) => Error::member_not_joined(group, member),
            Err(failure) => failure.into(),
        }
    }

    async fn member_names(&self, group: &GroupId, node: &str) -> Result<Vec<String>> {
        let mut children = match self.0.client.synced_children(node).await {
            Err(Failure { cause: Cause::NoNode, .. }) => {
                return Err(Error::group_not_created(group));
            }
            children => children?,
        };
        children.retain(|child| keys::is_member(child));
        Ok(children)
    }
}
