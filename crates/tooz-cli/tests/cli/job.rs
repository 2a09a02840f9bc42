//! `tooz lock` beside `flock` of util-linux: the same to the command that it runs, and to the shell.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::support::{Place, Running, heedful, until, until_dead};
use crate::terminal::{END, INTERRUPT, SUSPEND, Terminal};

/// What a user does, and what shows then.
enum Step {
    Types(&'static str),
    Presses(char),
    Sees(&'static str),
}
use Step::{Presses, Sees, Types};

/// A command that answers each line.
const ANSWERS: &str = r##"$RUN sh -c 'echo "# ready"; while read x; do echo "# got $x"; done'"##;
/// The same in the background: it is stopped when it reads the terminal.
const IN_BACKGROUND: &str = r##"$RUN sh -c 'echo "# ready"; read x; echo "# got $x"' &"##;
/// Waits until the job is stopped.
const UNTIL_STOPPED: &str = r##"until [ "$(jobs -s)" ]; do sleep 0.01; done; echo "# stopped""##;
/// Says how many commands are stopped.
const COUNT_STOPPED: &str = r##"echo "# $(ps -o stat=,args= | grep -c '^T[^ ]* *sh -c')""##;
/// Waits for the end of the job, and tells its exit code. `wait` alone is over when a job stops.
const UNTIL_ENDED: &str =
    r##"while kill -0 $! 2>&-; do sleep 0.01; done; wait $!; echo "# code $?""##;
const CODE: &str = r##"echo "# code $?""##;

/// The two ways to hold a lock while a command runs.
fn ways(place: &Place) -> [String; 2] {
    let file = place.dir.path().join("flock").display().to_string();
    [format!("flock {file}"), format!("{} lock a --", env!("CARGO_BIN_EXE_tooz"))]
}

fn variables(place: &Place, way: &str) -> Vec<(&'static str, String)> {
    vec![("RUN", way.to_owned()), ("TOOZ_URL", place.url())]
}

/// Both ways show the same.
fn shows(steps: &[Step]) {
    let place = Place::new();
    for way in ways(&place) {
        println!("{way}");
        let variables = variables(&place, &way);
        let variables: Vec<_> = variables.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let mut terminal = Terminal::new(&variables);
        for step in steps {
            match step {
                Types(line) => terminal.types(line),
                Presses(key) => terminal.presses(*key),
                Sees(line) => terminal.sees(line),
            }
        }
    }
}

/// Runs a script both ways; `$RUN` is the way.
fn both<T>(look: impl Fn(&mut Command) -> T) -> [T; 2] {
    let place = Place::new();
    ways(&place).map(|way| {
        let mut command = heedful("sh");
        command.envs(variables(&place, &way)).env_remove("TOOZ_MEMBER").stdin(Stdio::null());
        look(&mut command)
    })
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on() {
    let stop = [Presses(SUSPEND), Types(CODE), Sees("code 148"), Types(COUNT_STOPPED), Sees("1")];
    let first = [Types(ANSWERS), Sees("ready"), Types("one"), Sees("got one")];
    let fg = [Types("fg"), Types("two"), Sees("got two")];
    let end = [Presses(END), Types(CODE), Sees("code 0")];
    shows(&first.into_iter().chain(stop).chain(fg).chain(end).collect::<Vec<_>>());
}

#[test]
fn a_stopped_job_goes_on_in_the_background() {
    let command = r##"$RUN sh -c 'echo "# ready"; read x; echo "# got $x"; sleep 0.1'"##;
    shows(&[
        Types(command),
        Sees("ready"),
        Presses(SUSPEND),
        Types(UNTIL_STOPPED),
        Sees("stopped"),
        // It reads again, and is stopped again.
        Types("bg"),
        Types(UNTIL_STOPPED),
        Sees("stopped"),
        Types("fg"),
        Types("one"),
        Sees("got one"),
        Types(CODE),
        Sees("code 0"),
    ]);
}

#[test]
fn a_job_of_the_background_can_read_in_the_foreground() {
    shows(&[
        Types(IN_BACKGROUND),
        Sees("ready"),
        Types(UNTIL_STOPPED),
        Sees("stopped"),
        Types(COUNT_STOPPED),
        Sees("1"),
        Types("fg"),
        Types("one"),
        Sees("got one"),
        Types(CODE),
        Sees("code 0"),
    ]);
}

#[test]
fn a_job_of_the_background_is_stopped_by_ctrl_z_in_the_foreground() {
    let command = r##"$RUN sh -c 'echo "# ready"; until [ -e $F ]; do sleep 0.01; done' &"##;
    shows(&[
        Types("export F=$(mktemp -u)"),
        Types(command),
        Sees("ready"),
        Types("fg"),
        Presses(SUSPEND),
        Types(UNTIL_STOPPED),
        Sees("stopped"),
        Types(COUNT_STOPPED),
        Sees("1"),
        Types("touch $F; fg"),
        Types(r##"echo "# code $?"; rm $F"##),
        Sees("code 0"),
    ]);
}

#[test]
fn a_stopped_job_can_be_ended() {
    let stopped = || [Types(IN_BACKGROUND), Sees("ready"), Types(UNTIL_STOPPED), Sees("stopped")];
    for (kill, code) in
        [("kill %1", "code 143"), ("kill -HUP %1", "code 129"), ("kill -KILL %1", "code 137")]
    {
        let end = [Types(kill), Types(UNTIL_ENDED), Sees(code)];
        shows(&stopped().into_iter().chain(end).collect::<Vec<_>>());
    }
    let interrupted = [Types("fg"), Presses(INTERRUPT), Types(CODE), Sees("code 130")];
    shows(&stopped().into_iter().chain(interrupted).collect::<Vec<_>>());
}

#[test]
fn ctrl_c_ends_a_loop_too() {
    let run = r##"$RUN sh -c 'echo "# in"; exec sleep 120'"##;
    for script in [
        format!(r##"for i in 1 2 3; do {run}; done; echo "# after""##),
        format!(r##"bash -c '{}; echo "# after"'"##, run.replace('\'', r"'\''")),
    ] {
        let script: &'static str = script.leak();
        shows(&[Types(script), Sees("in"), Presses(INTERRUPT), Types(CODE), Sees("code 130")]);
    }
}

#[test]
fn a_hang_up_ends_the_job_and_the_lock_is_free() {
    let place = Place::new();
    let [_, way] = ways(&place);
    let url = place.url();
    for command in ["read x", "exec sleep 120"] {
        let mut terminal = Terminal::new(&[("RUN", &way), ("TOOZ_URL", &url)]);
        terminal.types(&format!("$RUN sh -c 'echo \"# $$\"; {command}' &"));
        let command = terminal.line();
        // A shell whose terminal hangs up passes that on to its jobs.
        terminal.types("kill -HUP $$");
        until_dead(&command);
        assert_eq!(place.run(["lock", "--wait", "30", "a", "--", "true"]).code, 0);
    }
}

#[test]
fn the_command_ignores_and_blocks_what_it_would_without_a_lock() {
    let masks = "$RUN grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let scripts = [
        masks.to_owned(),
        format!("trap '' HUP USR1 TERM; {masks}"),
        format!("trap '' TSTP TTIN TTOU; {masks}"),
        // A shell without jobs has INT and QUIT ignored there.
        format!("{masks} & wait"),
        format!("nohup {masks}"),
    ];
    for script in scripts {
        let [flock, ours] = both(|shell| {
            let done = shell.args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
            String::from_utf8(done.stdout).unwrap()
        });
        assert_eq!(ours, flock, "{script}");
        assert_eq!(ours.lines().count(), 2, "{script}");
    }
}

#[test]
fn nohup_keeps_the_command_from_a_hang_up() {
    let [flock, ours] = both(|shell| {
        shell.args(["-c", "exec nohup $RUN sh -c 'echo ready; read x; echo got $x' 2>&1"]);
        shell.stdin(Stdio::piped());
        let mut running = Running::start(shell);
        while running.line() != "ready" {}
        running.signal(Signal::SIGHUP);
        running.types("one");
        let line = running.line();
        (line, running.finish().code)
    });
    assert_eq!(ours, flock);
    assert_eq!(ours, ("got one".to_owned(), 0));
}

#[test]
fn the_exit_code_does_not_depend_on_an_ignored_sigchld() {
    let [flock, ours] = both(|shell| {
        let script = "exec env --ignore-signal=CHLD $RUN sh -c 'exit 3'";
        shell.args(["-c", script]).output().unwrap().status.code()
    });
    assert_eq!(ours, flock);
    assert_eq!(ours, Some(3));
}

/// Says each signal that comes, and ends with the second kind. Of two that wait, a shell takes the lower
/// number first.
const COUNTS: &str = r##"exec setsid $RUN bash -c '
    trap "echo HUP" HUP; trap "echo TERM; kill -KILL \$!; exit" TERM
    echo $$; while :; do sleep 120 & echo waits; wait $!; done'"##;

/// What the command prints when `signal` sends SIGHUP in some way, and then it gets SIGTERM.
fn counted(shell: &mut Command, signal: impl Fn(&mut Running, Pid) -> String) -> Vec<String> {
    let mut running = Running::start(shell.args(["-c", COUNTS]));
    let command = Pid::from_raw(running.line().parse().unwrap());
    let mut lines = vec![signal(&mut running, command)];
    // `flock` itself died of it. Ours passes this one on, after anything that it passed on before.
    let is_flock = |(_, value): (_, Option<&OsStr>)| {
        value.is_some_and(|value| value.to_string_lossy().starts_with("flock"))
    };
    let next = if shell.get_envs().any(is_flock) { command } else { running.pid() };
    kill(next, Signal::SIGTERM).unwrap();
    while lines.last().unwrap() != "TERM" {
        lines.push(running.line());
    }
    lines.retain(|line| line != "waits");
    lines
}

#[test]
fn a_signal_to_the_whole_job_reaches_the_command_once() {
    let [flock, ours] = both(|shell| {
        counted(shell, |running, _| {
            assert_eq!(running.line(), "waits");
            killpg(running.pid(), Signal::SIGHUP).unwrap();
            running.line()
        })
    });
    assert_eq!(ours, flock);
    assert_eq!(ours, ["HUP", "TERM"]);
}

/// As systemd does by default. The command comes first here and has done with the signal before
/// the others get it, or two might look like one.
#[test]
fn a_signal_to_each_process_reaches_the_command_once() {
    let [flock, ours] = both(|shell| {
        counted(shell, |running, command| {
            let all = pids(["--session", &running.pid().to_string()]);
            assert_eq!(running.line(), "waits");
            kill(command, Signal::SIGHUP).unwrap();
            let line = running.line();
            while running.line() != "waits" {}
            for other in all.into_iter().filter(|other| *other != command) {
                // A process may be gone already.
                let _ = kill(other, Signal::SIGHUP);
            }
            line
        })
    });
    assert_eq!(ours, flock);
    assert_eq!(ours, ["HUP", "TERM"]);
}

fn pids<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Vec<Pid> {
    let found = Command::new("pgrep").args(arguments).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    found.lines().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Makes what follows the first process of a container, or says that it may not.
fn container() -> Option<&'static [&'static str]> {
    let asked: [&'static [&'static str]; 2] = [
        &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"],
        &[
            "unshare",
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ],
    ];
    let may = |words: &&&[&str]| {
        let tried = Command::new(words[0]).args(&words[1..]).arg("true").output();
        tried.is_ok_and(|done| done.status.success())
    };
    let found = asked.iter().find(may).copied();
    if found.is_none() {
        eprintln!("not tried: no namespace of processes may be made here");
    }
    found
}

#[test]
fn as_process_1_the_exit_code_is_the_same() {
    let Some(container) = container() else { return };
    for script in ["exit 3", "kill -TERM $$", "kill -INT $$", "kill -KILL $$"] {
        let [flock, ours] = both(|shell| {
            let inside = format!("exec {} $RUN sh -c '{script}'", container.join(" "));
            shell.args(["-c", &inside]).output().unwrap().status.code()
        });
        assert_eq!(ours, flock, "{script}");
        assert!(ours.is_some_and(|code| code > 0), "{script}");
    }
}

/// Starts a process whose parent ends before it does.
const ORPHAN: &str = "sh -c \"sleep 0.05 & exit\"";

/// Runs a script under `tooz lock` as process 1.
fn start_in(container: &[&str], place: &Place, script: &str) -> Running {
    let tooz = [env!("CARGO_BIN_EXE_tooz"), "lock", "--grace", "600", "a", "--"];
    let all = [container, &tooz, &["sh", "-c", script]].concat();
    Running::start(Command::new(all[0]).args(&all[1..]).env("TOOZ_URL", place.url()))
}

#[test]
fn as_process_1_it_reaps_orphans() {
    let Some(container) = container() else { return };
    let place = Place::new();
    let no_zombies = "while ps -eo stat=,comm= | grep -E '^Z|sleep' >/dev/null; do :; done";
    let mut running = start_in(container, &place, &format!("{ORPHAN}; {no_zombies}; echo none"));
    assert_eq!(running.line(), "none");
    assert_eq!(running.finish().code, 0);
}

#[test]
fn as_process_1_a_loss_does_not_take_the_whole_grace() {
    let Some(container) = container() else { return };
    let place = Place::new();
    let script = format!("{ORPHAN}; echo ready; sleep 120 & wait");
    let mut running = start_in(container, &place, &script);
    assert_eq!(running.line(), "ready");
    place.end_sessions();
    assert_eq!(running.finish().code, 76);
}

#[test]
fn a_signal_resumes_a_stopped_command() {
    let place = Place::new();
    let mut running = place.start(&["lock", "a"], "echo ready; echo $$; exec sleep 120");
    let command = Pid::from_raw(running.line().parse().unwrap());
    kill(command, Signal::SIGSTOP).unwrap();
    until("the command is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{command}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    });
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code, -15);
}
