//! System V IPC: the semaphores' bare system calls, and the files beside them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use tooz::CoordinatorUrl;
use tooz::driver::async_trait;
use tooz_ipc::inspect::{bare_cycle, lock_key};

use super::Raw;
use super::file::{hex_of, read_group};
use super::place::{option, own_name};

pub(super) struct Ipc {
    /// Where the driver keeps the groups, in the layout of the file driver.
    dir: PathBuf,
    small: PathBuf,
    key: u32,
}

impl Ipc {
    pub(super) fn open(url: &CoordinatorUrl) -> anyhow::Result<Self> {
        let base = Path::new(option(url, "directory").unwrap_or("/dev/shm"));
        // Each namespace of System V IPC has its own, and so has each user.
        let kernel = fs::metadata("/proc/self/ns/ipc")?.ino();
        let namespace = match option(url, "namespace").unwrap_or_default() {
            "" => "default".to_owned(),
            name => hex_of(name),
        };
        let user = format!("tooz-{}-{kernel}", geteuid());
        let small = base.join(own_name());
        fs::write(&small, "1")?;
        let key = lock_key("ipc://", &own_name().as_str().into())?;
        Ok(Self { dir: base.join(user).join(namespace).join("file"), small, key })
    }
}

#[async_trait]
impl Raw for Ipc {
    /// A file of one byte in memory: opened, read and closed.
    async fn read(&mut self) -> anyhow::Result<()> {
        fs::read(&self.small)?;
        Ok(())
    }

    /// Makes the set, takes it with an undo, removes it: what an exclusive holder has to do for a
    /// peer in Python.
    async fn write(&mut self) -> anyhow::Result<()> {
        Ok(bare_cycle(self.key)?)
    }

    async fn read_group(&mut self, group: &str) -> anyhow::Result<usize> {
        Ok(read_group(&self.dir, group)?)
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        Ok(fs::remove_file(&self.small)?)
    }
}
