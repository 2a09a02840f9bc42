//! Where things are in the directory: Python's keys, and ours in `.tooz` beside it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha1::{Digest, Sha1};
use tooz_core::{Error, GroupId, LockName, MemberId, Result};
use uuid::Uuid;

use crate::access;

/// Names at the top of the directory that are no locks.
pub(crate) const RESERVED: [&str; 4] = ["groups", "tmp", ".driver_lock", ".tooz"];

/// How the names of our temporary files begin.
pub(crate) const TEMPORARY: &str = "tooz-";

/// The paths of one directory.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: PathBuf,
}

impl Keys {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The lock around every change of a group.
    pub(crate) fn driver_lock(&self) -> PathBuf {
        self.root.join(".driver_lock")
    }

    pub(crate) fn groups(&self) -> PathBuf {
        self.root.join("groups")
    }

    pub(crate) fn group(&self, group: &GroupId) -> PathBuf {
        self.groups().join(safe_id(group.as_bytes()))
    }

    /// What makes a directory a group.
    pub(crate) fn metadata(&self, group: &GroupId) -> PathBuf {
        self.group(group).join(".metadata")
    }

    pub(crate) fn member(&self, group: &GroupId, member: &MemberId) -> PathBuf {
        self.group(group).join(format!("{}.raw", safe_id(member.as_bytes())))
    }

    pub(crate) fn sessions(&self) -> PathBuf {
        self.root.join(".tooz/sessions")
    }

    pub(crate) fn leaders(&self) -> PathBuf {
        self.root.join(".tooz/leaders")
    }

    pub(crate) fn leader(&self, group: &GroupId) -> PathBuf {
        self.leaders().join(safe_id(group.as_bytes()))
    }

    pub(crate) fn queues(&self) -> PathBuf {
        self.root.join(".tooz/queues")
    }

    /// Where those stand who wait for that lock or leader's file.
    pub(crate) fn queue(&self, file: &Path) -> PathBuf {
        let name = file.strip_prefix(&self.root).unwrap_or(file);
        self.queues().join(safe_id(name.as_os_str().as_bytes()))
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A path that nobody else uses, on the same file system.
    pub(crate) fn new_temporary(&self) -> PathBuf {
        self.temporary().join(format!("{TEMPORARY}{}", Uuid::new_v4().simple()))
    }

    /// Makes the directory, with all above it. Only at the start: what is removed while it is in
    /// use ends the session.
    pub(crate) fn create(&self) -> io::Result<()> {
        access::make_dir_all(&self.root)
    }

    /// Makes the directories in it that are missing; the error names the one that cannot be made.
    pub(crate) fn repair(&self) -> std::result::Result<(), (PathBuf, io::Error)> {
        let ours =
            [self.groups(), self.temporary(), self.sessions(), self.leaders(), self.queues()];
        for dir in ours {
            access::make_dirs(&self.root, &dir).map_err(|error| (dir, error))?;
        }
        Ok(())
    }

    /// The lock file of that name, which may lie in sub-directories but never outside, and never
    /// among the files of the driver.
    pub(crate) fn lock(&self, name: &LockName) -> Result<PathBuf> {
        let refuse = |what: &str| {
            Err(Error::invalid(format!(
                "the lock name {name} {what}; a lock is a file: use names such as inventory or \
                 volumes/17"
            )))
        };
        let mut path = self.root.clone();
        for (index, part) in name.as_bytes().split(|byte| *byte == b'/').enumerate() {
            let part = OsStr::from_bytes(part);
            match part.as_bytes() {
                b"" => return refuse("begins or ends with a slash, or has two in a row"),
                b"." | b".." => return refuse("has . or .. as a part"),
                bytes if bytes.contains(&0) => return refuse("has a NUL byte"),
                bytes if bytes.len() > 255 => return refuse("has a part of more than 255 bytes"),
                _ if index == 0 && RESERVED.iter().any(|reserved| part == *reserved) => {
                    return refuse("is reserved for the driver");
                }
                _ => path.push(part),
            }
        }
        Ok(path)
    }

    /// Puts a file in place at once: a reader sees all of it, or what was there before.
    pub(crate) fn install(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = self.new_temporary();
        let installed =
            access::write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
        if installed.is_err() {
            // What cannot be removed now is removed at a later start.
            let _ = fs::remove_file(&temporary);
        }
        installed
    }
}

/// A file name for any id.
pub(crate) fn safe_id(id: &[u8]) -> String {
    hex(&Sha1::digest(id))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] has written.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_names_cannot_leave_the_directory() {
        let keys = Keys::new(Path::new("/d"));
        let path = |name: &[u8]| keys.lock(&LockName::from(name));
        for (name, expected) in [
            (&b"lock"[..], "/d/lock"),
            (b"a/b/c", "/d/a/b/c"),
            (b"with space", "/d/with space"),
            (b"a/groups", "/d/a/groups"),
            (b"..a", "/d/..a"),
            (b"groups2", "/d/groups2"),
        ] {
            assert_eq!(path(name).unwrap(), Path::new(expected));
        }
        assert_eq!(path(b"\xff\xfe").unwrap().as_os_str().as_bytes(), b"/d/\xff\xfe");
        let long = [b'x'; 256];
        for name in [
            &b"../escape"[..],
            b"..",
            b".",
            b"a/..",
            b"a/./b",
            b"/etc/passwd",
            b"a/",
            b"a//b",
            b"groups",
            b"groups/x",
            b"tmp/x",
            b".driver_lock",
            b".tooz/sessions/x",
            b"\0nul",
            &long,
        ] {
            let error = path(name).unwrap_err();
            assert_eq!(error.kind(), tooz_core::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("use names such as"), "{error}");
        }
    }

    #[test]
    fn hex_is_read_back() {
        assert_eq!(unhex(&hex(b"\x00m\xff")).unwrap(), b"\x00m\xff");
        assert_eq!(unhex("0x"), None);
    }
}
