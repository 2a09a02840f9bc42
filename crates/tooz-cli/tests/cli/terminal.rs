//! A terminal with an interactive shell, as a user has it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid, tcgetpgrp};

use crate::support::{LIMIT, heedful, until};

/// Ctrl-C.
pub(crate) const INTERRUPT: char = '\x03';
/// Ctrl-D: the end of the input.
pub(crate) const END: char = '\x04';
/// Ctrl-Z.
pub(crate) const SUSPEND: char = '\x1a';

/// A terminal. Dropped, it hangs up.
pub(crate) struct Terminal {
    keys: File,
    lines: Receiver<String>,
    shell: Child,
}

impl Terminal {
    /// With `bash` in it, which has these variables.
    pub(crate) fn new(variables: &[(&str, &str)]) -> Self {
        let keys = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let mut inside = OpenOptions::new();
        inside.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
        let inside = inside.open(ptsname_r(&keys).unwrap()).unwrap();

        let mut shell = heedful("setsid");
        shell.args(["--ctty", "bash", "--noprofile", "--norc", "--noediting", "-i"]);
        shell.env("PS1", "").env("HISTFILE", "").env_remove("TOOZ_URL").env_remove("TOOZ_MEMBER");
        shell.envs(variables.iter().copied());
        shell.stdin(inside.try_clone().unwrap()).stdout(inside.try_clone().unwrap());
        let shell = shell.stderr(inside).spawn().unwrap();

        let keys = File::from(OwnedFd::from(keys));
        let screen = BufReader::new(keys.try_clone().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // An error is the end: the last process has closed the terminal.
            for line in screen.lines().map_while(Result::ok) {
                let _ = sender.send(line.trim_end().to_owned());
            }
        });
        let mut terminal = Self { keys, lines, shell };
        // What is typed does not show again.
        terminal.types("stty -echo noflsh; echo '#' quiet");
        terminal.sees("quiet");
        terminal
    }

    /// Types a line.
    pub(crate) fn types(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Presses a key, while a job is in the foreground. One that signals also throws away what is
    /// typed meanwhile, so this waits until the shell is back.
    pub(crate) fn presses(&mut self, key: char) {
        let shell = Pid::from_raw(self.shell.id().cast_signed());
        let keys = self.keys.try_clone().unwrap();
        let shell_has_it = || tcgetpgrp(&keys).unwrap() == shell;
        until("the job has the terminal", || !shell_has_it());
        let job = tcgetpgrp(&keys).unwrap();
        self.keys.write_all(&[u8::try_from(key).unwrap()]).unwrap();
        until("the shell has the terminal", shell_has_it);
        if key == SUSPEND {
            // Who was reading takes one more line otherwise, if it comes before the stop does.
            until("the whole job is stopped", || is_stopped(job));
        }
    }

    /// The next line that begins with `#` and a space, without them.
    pub(crate) fn line(&mut self) -> String {
        let (began, mut before) = (Instant::now(), String::new());
        loop {
            let left = LIMIT.saturating_sub(began.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => match line.strip_prefix("# ") {
                    Some(text) => return text.to_owned(),
                    None => before += &format!("{line}\n"),
                },
                Err(_) => panic!("no line; only:\n{before}"),
            }
        }
    }

    /// Waits for the next such line, which must be this one.
    #[track_caller]
    pub(crate) fn sees(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Whether all of a job stand still, but for those who block the signal of the key.
fn is_stopped(job: Pid) -> bool {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let status = std::fs::read_to_string(entry.unwrap().path().join("status")).ok()?;
        let field =
            |name| status.lines().find_map(|line| line.strip_prefix(name)?.split('\t').nth(1));
        let group = getpgid(Some(Pid::from_raw(field("Pid:")?.parse().ok()?))).ok()?;
        let blocks =
            u64::from_str_radix(field("SigBlk:")?, 16).ok()? >> (Signal::SIGTSTP as u32 - 1) & 1
                == 1;
        (group == job && !blocks)
            .then(|| field("State:").map(|state| state.starts_with(['T', 'Z'])))?
    });
    all.into_iter().all(|stopped| stopped)
}
