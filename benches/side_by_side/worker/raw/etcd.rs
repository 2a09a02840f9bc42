//! etcd v2: GET with quorum and PUT of a key, and a directory with everything in it.

use std::borrow::Cow;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use hyper::Method;
use serde::Deserialize;
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;

use super::Raw;
use super::http::{FORM, Http};
use super::place::{option, own_name};

pub(super) struct Etcd {
    http: Http,
    get: String,
    put: String,
    /// Before the names of the groups.
    groups: String,
    /// What two processes tell each other by: who had it last.
    met_at: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    node: Node<'a>,
}

#[derive(Deserialize)]
struct Node<'a> {
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
    #[serde(default)]
    dir: bool,
    #[serde(borrow, default)]
    nodes: Vec<Node<'a>>,
    #[serde(default, rename = "modifiedIndex")]
    modified: u64,
}

impl Etcd {
    pub(super) async fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let put = format!("/v2/keys/{}", own_name());
        let root = match option(url, "namespace").unwrap_or_default() {
            "" => String::new(),
            namespace => format!("/{namespace}"),
        };
        let mut this = Self {
            http: Http::open(url, 2379).await?,
            get: format!("{put}?quorum=true"),
            put,
            groups: format!("/v2/keys{root}/tooz.rs/group/g"),
            met_at: String::new(),
        };
        // So that there is something to read.
        this.write().await?;
        Ok(this)
    }
}

/// The bytes of a member's id and capabilities, of `mID` and `SESSION:CAPABILITIES` in base64.
fn size_of(member: &Node<'_>) -> Option<usize> {
    let (_, id) = member.key.rsplit_once("/m")?;
    let (_, capabilities) = member.value.split_once(':')?;
    Some(URL_SAFE.decode(id).ok()?.len() + URL_SAFE.decode(capabilities).ok()?.len())
}

#[async_trait]
impl Raw for Etcd {
    async fn read(&mut self) -> anyhow::Result<()> {
        self.http.get(&self.get).await?;
        Ok(())
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        self.http.send(Method::PUT, &self.put, FORM, "value=1&ttl=600").await?;
        Ok(())
    }

    async fn meet(&mut self, name: &str) -> anyhow::Result<Option<bool>> {
        self.met_at = format!("/v2/keys/{name}");
        let first = format!("{}?prevExist=false", self.met_at);
        Ok(Some(self.http.send(Method::PUT, &first, FORM, "value=&ttl=600").await.is_ok()))
    }

    async fn pass(&mut self) -> anyhow::Result<()> {
        let body = format!("value={}&ttl=600", own_name());
        self.http.send(Method::PUT, &self.met_at, FORM, body).await?;
        Ok(())
    }

    async fn turn(&mut self) -> anyhow::Result<()> {
        let body = self.http.get(&self.met_at).await?;
        let Event { node } = serde_json::from_slice(&body)?;
        // The other may have been faster than the long poll.
        if node.value.is_empty() || node.value == own_name() {
            let after = node.modified + 1;
            self.http.get(&format!("{}?wait=true&waitIndex={after}", self.met_at)).await?;
        }
        self.write().await
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        // The padding of base64 is all of it that a URL does not take.
        let name = URL_SAFE.encode(group).replace('=', "%3D");
        let target = format!("{}{name}?quorum=true&recursive=true", self.groups);
        let body = self.http.get(&target).await?;
        let event: Event<'_> = serde_json::from_slice(&body)?;
        // Beside the directory of the members is the mark of the group.
        let members = event.node.nodes.iter().filter(|node| node.dir).flat_map(|dir| &dir.nodes);
        members.map(|member| size_of(member).context("no member of ours")).sum()
    }
}
