//! Who may touch what: the modes of what is made, and a look at what is found.
//!
//! Whoever can read a file can lock it, and keep everybody out for ever. So nothing is made for
//! everybody; what the umask takes from the group is taken.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::{getegid, geteuid, getgroups};
use tooz_core::{Error, Result};
use tracing::warn;

use crate::errors::unreachable;
use crate::ofd::is_missing;

const FILE: u32 = 0o660;
const DIR: u32 = 0o770;

/// To open a file for reading and writing, and never by a link, which could lead out of the
/// directory.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE).custom_flags(libc::O_NOFOLLOW);
    options
}

pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    options().create_new(true).open(path)
}

pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    create_new(path)?.write_all(content)
}

pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR).create(path)
}

/// Makes a directory with all above it.
pub(crate) fn make_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR).recursive(true).create(path)
}

/// Makes a directory, and those between it and `top` that are missing, but never `top` itself.
///
/// Others may make and remove the same at any moment: what is made may be gone again.
pub(crate) fn make_dirs(top: &Path, dir: &Path) -> io::Result<()> {
    if dir == top {
        return Ok(());
    }
    let make = || match make_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    match (make(), dir.parent()) {
        (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => {
            make_dirs(top, above)?;
            make()
        }
        (made, _) => made,
    }
}

/// What is in a directory, sorted; nothing if it does not exist.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<_> = match entries {
        // It may also be removed between two of its entries.
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    paths.sort();
    Ok(paths)
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if is_missing(&error) => Ok(()),
        result => result,
    }
}

/// Refuses a link among the directories between `top` and `path`: it could lead out of `top`.
pub(crate) fn refuse_links(top: &Path, path: &Path) -> Result<()> {
    let above = path.ancestors().skip(1).take_while(|dir| *dir != top);
    for dir in above {
        if dir.symlink_metadata().is_ok_and(|found| found.is_symlink()) {
            let path = dir.display();
            return Err(Error::invalid(format!("{path} is a symbolic link; choose another name")));
        }
    }
    Ok(())
}

/// Whether it says that nothing can be written there.
pub(crate) fn is_unwritable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Looks at the directory and those above it: whoever else can write there can take locks away,
/// or keep others from theirs. One that everybody can write is refused unless it is allowed; above
/// it the sticky bit is enough, as `/tmp` has it.
pub(crate) fn check(root: &Path, allowed: bool) -> Result<()> {
    let failed = |error| unreachable("look at the directory", root, error);
    let root = root.canonicalize().map_err(failed)?;
    if root.parent().is_none() {
        return Err(Error::invalid(
            "the URL names the root directory, which is the system's; write file:///absolute/directory",
        ));
    }
    for dir in root.ancestors() {
        let found = dir.metadata().map_err(failed)?;
        let is_open = found.mode() & 0o002 != 0 && (dir == root || found.mode() & 0o1000 == 0);
        let path = dir.display();
        if is_open && !allowed {
            return Err(Error::invalid(format!(
                "every user of this host can write to {path}, and so take locks away; take that \
                 right from them (chmod o-w), or accept it with ?world_writable=yes"
            )));
        }
        if is_foreign(&found) {
            let uid = found.uid();
            warn!(%path, uid, "the directory belongs to another user, who can break locks");
        }
    }
    Ok(())
}

/// Whether it is neither ours nor root's, nor shared with a group of ours.
fn is_foreign(found: &Metadata) -> bool {
    let (uid, gid) = (found.uid(), found.gid());
    let is_shared = || {
        let ours = getgroups().unwrap_or_default().into_iter().chain([getegid()]);
        found.mode() & 0o020 != 0 && ours.into_iter().any(|group| group.as_raw() == gid)
    };
    uid != 0 && uid != geteuid().as_raw() && !is_shared()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_everybody_can_write_is_refused_unless_it_is_allowed() {
        let temp = tempfile::tempdir().unwrap();
        let (above, root) = (temp.path().join("above"), temp.path().join("above/root"));
        make_dir_all(&root).unwrap();
        check(&root, false).unwrap();
        // (The mode above, the mode of the directory, whether it is refused.)
        for (outer, inner, refused) in [
            (0o755, 0o775, false),
            (0o755, 0o777, true),
            (0o755, 0o1777, true),
            (0o1777, 0o755, false),
            (0o777, 0o755, true),
        ] {
            set_mode(&above, outer);
            set_mode(&root, inner);
            let checked = check(&root, false);
            assert_eq!(checked.is_err(), refused, "{outer:o}, {inner:o}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("chmod o-w"), "{error}");
            }
            check(&root, true).unwrap();
        }
    }

    #[test]
    fn the_root_directory_is_refused_whatever_leads_there() {
        let temp = tempfile::tempdir().unwrap();
        symlink("/", temp.path().join("link")).unwrap();
        for root in [Path::new("/"), Path::new("/tmp/.."), &temp.path().join("link")] {
            let error = check(root, true).unwrap_err().to_string();
            assert!(error.contains("root directory"), "{error}");
        }
    }

    #[test]
    fn a_link_among_the_directories_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let (top, elsewhere) = (temp.path().join("top"), temp.path().join("elsewhere"));
        make_dir_all(&top.join("a")).unwrap();
        make_dir(&elsewhere).unwrap();
        symlink(&elsewhere, top.join("a/link")).unwrap();
        refuse_links(&top, &top.join("a/b/lock")).unwrap();
        for below in ["a/link/lock", "a/link/b/lock"] {
            let error = refuse_links(&top, &top.join(below)).unwrap_err().to_string();
            assert!(error.contains("a/link is a symbolic link"), "{error}");
        }
        // The directory itself may be reached by one: that is the operator's choice.
        symlink(&top, temp.path().join("way")).unwrap();
        refuse_links(&temp.path().join("way"), &temp.path().join("way/a/lock")).unwrap();
    }
}
