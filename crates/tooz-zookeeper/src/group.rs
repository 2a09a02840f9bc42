//! Groups: a node each, whose ephemeral children are the members.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tooz_core::{
    Capabilities, Error, GroupFeed, GroupId, Groups, JoinRequest, Lease, Member, MemberId,
    OperationId, Result, async_trait,
};
use zookeeper_client::{CreateMode, Error as Cause, MultiWriteError, Stat};

use crate::errors::{Failure, broke_twice, translate};
use crate::paths;
use crate::session::{Life, ZooKeeperSession};

#[async_trait]
impl Groups for ZooKeeperSession {
    async fn create(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let node = &*life.paths().group(group)?;
        // Peers in Python leave it empty and never read it. It tells whether a lost reply was a yes.
        let by = OperationId::random();
        let options = &life.config.node(CreateMode::Persistent);
        loop {
            let created = life
                .link
                .call(|client| async move { client.create(node, by.as_bytes(), options).await })
                .await;
            match created {
                Ok(_) => return Ok(()),
                Err(Failure { cause: Cause::NoNode, .. }) => make_namespace(life).await?,
                Err(Failure { cause: Cause::NodeExists, again: true }) => {
                    match life.link.call(|client| async move { client.get_data(node).await }).await
                    {
                        Ok(answer) if answer.0 == by.as_bytes() => return Ok(()),
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
        let life = &self.0;
        let (node, leader) = (&*life.paths().group(group)?, &*life.paths().leader(group)?);
        let mut again = false;
        loop {
            let deleted = life.link.call(|client| async move {
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
                // What a repeated request finds undone was done by the first.
                Cause::NoNode if again => return Ok(()),
                Cause::NoNode => return Err(Error::group_not_created(group)),
                // Candidates are members, or of another kind; a queue alone may just have been made.
                Cause::NotEmpty if !has_only_an_empty_queue(life, node, leader).await? => {
                    return Err(Error::group_not_empty(group));
                }
                Cause::NotEmpty => {}
                _ => return Err(failure.into()),
            }
        }
    }

    async fn list(&self) -> Result<BTreeSet<GroupId>> {
        let life = &self.0;
        let base = life.paths().base();
        match synced_children(life, base).await {
            Ok(children) => {
                Ok(children.into_iter().filter(|c| paths::is_group(c)).map(GroupId::from).collect())
            }
            Err(Failure { cause: Cause::NoNode, .. }) => Ok(BTreeSet::new()),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn join(&self, request: JoinRequest) -> Result<Lease> {
        let life = &self.0;
        let JoinRequest { group, capabilities, again: rejoin, .. } = request;
        let path = life.paths().member(&group, &life.member)?;
        let (node, data) = (&*path, capabilities.as_msgpack());
        life.config.must_fit(node, data)?;
        let options = &life.config.node(CreateMode::Ephemeral);
        loop {
            let made = life
                .link
                .call(|client| async move { client.create(node, data, options).await })
                .await;
            let again = match made {
                Ok(answer) => {
                    life.must_own(&answer.0)?;
                    return Ok(life.add_membership(&group, path));
                }
                Err(Failure { cause: Cause::NoNode, .. }) => {
                    return Err(Error::group_not_created(&group));
                }
                Err(Failure { cause: Cause::NodeExists, again }) => again,
                Err(failure) => return Err(failure.into()),
            };
            let found =
                life.link.call(|client| async move { client.check_stat(node).await }).await?;
            match found {
                // It has left meanwhile.
                None => {}
                Some(stat) if life.owns(&stat) && (again || rejoin) => {
                    return Ok(life.add_membership(&group, path));
                }
                // What an earlier session of ours left behind.
                Some(stat) if rejoin => match delete_node(life, node, Some(stat.version)).await {
                    Ok(()) | Err(Failure { cause: Cause::NoNode | Cause::BadVersion, .. }) => {}
                    Err(failure) => return Err(failure.into()),
                },
                Some(_) => return Err(Error::member_already_exists(&group, &life.member)),
            }
        }
    }

    async fn leave(&self, group: &GroupId) -> Result<()> {
        let life = &self.0;
        let node = life.paths().member(group, &life.member)?;
        if life.membership(group).is_none() {
            return Err(not_joined(life, group, &life.member).await);
        }
        match delete_node(life, &node, None).await {
            Ok(()) | Err(Failure { cause: Cause::NoNode, again: true }) => {
                life.remove_membership(group);
                Ok(())
            }
            Err(Failure { cause: Cause::NoNode, .. }) => {
                life.remove_membership(group);
                Err(not_joined(life, group, &life.member).await)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn update_capabilities(
        &self,
        group: &GroupId,
        capabilities: &Capabilities,
    ) -> Result<()> {
        let life = &self.0;
        let (node, data) = (&*life.paths().member(group, &life.member)?, capabilities.as_msgpack());
        if life.membership(group).is_none() {
            return Err(not_joined(life, group, &life.member).await);
        }
        life.config.must_fit(node, data)?;
        match life.link.call(|client| async move { client.set_data(node, data, None).await }).await
        {
            Ok(_) => Ok(()),
            Err(Failure { cause: Cause::NoNode, .. }) => {
                Err(not_joined(life, group, &life.member).await)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Deletes a member's node, whoever made it. The member's own watch on it tells the member.
    async fn remove_member(&self, group: &GroupId, member: &MemberId) -> Result<()> {
        let life = &self.0;
        let node = &*life.paths().member(group, member)?;
        let (mut found, mut lost) = (None, false);
        loop {
            let stat = life.link.call(|client| async move {
                let (synced, stat) = (client.sync(node), client.check_stat(node));
                synced.await?;
                stat.await
            });
            let now = stat.await?.map(|stat| stat.czxid);
            match (found, now) {
                (None, None) => return Err(not_joined(life, group, member).await),
                // It is gone, or has joined again: the request whose reply was lost was carried out.
                (Some(_), now) if now != found => return Ok(()),
                _ => found = now,
            }
            match life.link.once(|client| async move { client.delete(node, None).await }).await {
                Ok(_) => return Ok(()),
                Err(Cause::ConnectionLoss) if lost => return Err(broke_twice()),
                Err(Cause::ConnectionLoss) => lost = true,
                Err(Cause::NoNode) => return Err(not_joined(life, group, member).await),
                Err(cause) => return Err(translate(cause)),
            }
        }
    }

    async fn members(&self, group: &GroupId) -> Result<BTreeSet<MemberId>> {
        let life = &self.0;
        let names = member_names(life, group, &life.paths().group(group)?).await?;
        Ok(names.into_iter().map(MemberId::from).collect())
    }

    /// The names in one round trip, and what is in all of them in another.
    async fn members_with_capabilities(&self, group: &GroupId) -> Result<Vec<Member>> {
        let life = &self.0;
        let node = &*life.paths().group(group)?;
        let names = &*member_names(life, group, node).await?;
        let read = life.link.call(|client| async move {
            let data = names.iter().map(|name| client.get_data(&format!("{node}/{name}")));
            let mut members = Vec::new();
            for (name, data) in names.iter().zip(data.collect::<Vec<_>>()) {
                match data.await {
                    Ok((data, stat)) => members.push(describe(name.as_str(), data, &stat)),
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
        let life = &self.0;
        let node = &*life.paths().member(group, member)?;
        let read = life.link.call(|client| async move {
            let (synced, data) = (client.sync(node), client.get_data(node));
            synced.await?;
            data.await
        });
        match read.await {
            Ok(answer) => {
                let (data, stat) = answer;
                Ok(describe(member, data, &stat))
            }
            Err(Failure { cause: Cause::NoNode, .. }) => Err(not_joined(life, group, member).await),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn watch(&self, group: &GroupId, feed: &GroupFeed) -> Result<()> {
        crate::watch::group(&self.0, group, feed).await
    }
}

async fn make_namespace(life: &Life) -> Result<()> {
    let (base, options) = (life.paths().base(), &life.config.node(CreateMode::Persistent));
    life.link.call(|client| async move { client.mkdir(base, options).await }).await?;
    Ok(())
}

async fn has_only_an_empty_queue(life: &Life, node: &str, leader: &str) -> Result<bool> {
    let children = life.link.call(|client| async move {
        let (children, waiting) = (client.list_children(node), client.list_children(leader));
        Ok((children.await?, waiting.await))
    });
    match children.await {
        Ok(answer) => {
            let (children, waiting) = answer;
            let members = children.iter().any(|child| paths::is_member(child));
            Ok(!members && waiting.is_ok_and(|waiting| waiting.is_empty()))
        }
        Err(Failure { cause: Cause::NoNode, .. }) => Ok(true),
        Err(failure) => Err(failure.into()),
    }
}

async fn delete_node(life: &Life, node: &str, version: Option<i32>) -> Result<(), Failure> {
    life.link.call(|client| async move { client.delete(node, version).await }).await.map(drop)
}

/// Why there is no such member.
async fn not_joined(life: &Life, group: &GroupId, member: &MemberId) -> Error {
    let node = match life.paths().group(group) {
        Ok(node) => node,
        Err(error) => return error,
    };
    let node = &*node;
    match life.link.call(|client| async move { client.check_stat(node).await }).await {
        Ok(answer) if answer.is_none() => Error::group_not_created(group),
        Ok(_) => Error::member_not_joined(group, member),
        Err(failure) => failure.into(),
    }
}

// ---- Reading.

/// With everything that was done before it was asked for, by whatever server.
async fn synced_children(life: &Life, node: &str) -> Result<Vec<String>, Failure> {
    let children = life.link.call(|client| async move {
        let (synced, children) = (client.sync(node), client.list_children(node));
        synced.await?;
        children.await
    });
    children.await
}

async fn member_names(life: &Life, group: &GroupId, node: &str) -> Result<Vec<String>> {
    let mut children = match synced_children(life, node).await {
        Ok(children) => children,
        Err(Failure { cause: Cause::NoNode, .. }) => {
            return Err(Error::group_not_created(group));
        }
        Err(failure) => return Err(failure.into()),
    };
    children.retain(|child| paths::is_member(child));
    Ok(children)
}

/// What a member's node says.
pub(crate) fn describe(id: impl Into<MemberId>, data: Vec<u8>, stat: &Stat) -> Member {
    let time = |milliseconds: i64| {
        let since = Duration::from_millis(u64::try_from(milliseconds).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    // A member of another kind may say nothing.
    let capabilities = match data.is_empty() {
        true => Capabilities::none(),
        false => Capabilities::from_msgpack(data),
    };
    let mut member = Member::new(id, capabilities);
    member.joined_at = time(stat.ctime);
    member.updated_at = time(stat.mtime);
    member.incarnation = stat.czxid.cast_unsigned();
    member
}
