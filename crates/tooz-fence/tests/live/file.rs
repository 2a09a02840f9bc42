//! Files, and holders that are processes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tooz_fence::file::{FencedFile, raise};
use tooz_fence::{Error, Fence, FenceName};

use crate::ledger::{Deposit, End, OPENING, wrong};
use crate::orders;
use crate::stage::{Gate, Stage};

/// How many interleavings are played at once: they mostly wait.
const AT_ONCE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    /// Raises and reads; raises and replaces.
    Raises,
    /// A mistake: the check is over when the write comes.
    ChecksAndWrites,
}

async fn raised(path: &Path, holder: &Deposit) -> Result<FencedFile, Error<std::io::Error>> {
    let (path, fence) = (path.to_owned(), holder.fence);
    spawn_blocking(move || raise(path, fence)).await.unwrap()
}

async fn deposit(path: PathBuf, mut gate: Gate, program: Program, holder: Deposit) -> End {
    let done = async {
        gate.step().await;
        let file = raised(&path, &holder).await?;
        gate.step().await;
        let balance: i64 = String::from_utf8(file.read()?).unwrap().parse().unwrap();
        let balance = (balance + holder.amount).to_string();
        drop(file);
        gate.step().await;
        let mut file = raised(&path, &holder).await?;
        if program == Program::ChecksAndWrites {
            drop(file);
            gate.step().await;
            return Ok(fs::write(&path, balance)?);
        }
        gate.step().await;
        Ok(file.replace(balance.as_bytes())?)
    };
    match done.await {
        Ok(()) => holder.is_written(),
        Err(Error::Stale(_)) => End::Refused,
        Err(error) => panic!("{error:?}"),
    }
}

async fn losses(program: Program, tokens: &[u64], orders: &[Vec<usize>]) -> usize {
    // In memory, where there is such a place: how fast the disk is is not what is tested.
    let memory = Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") });
    let folder = folder.unwrap();
    let (mut plays, places) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (account, order) in (0..).zip(orders.iter().cloned()) {
        let holders = Deposit::holders(account, tokens);
        let path = folder.path().join(format!("account-{account}"));
        let places = places.clone();
        plays.spawn(async move {
            let _place = places.acquire().await;
            fs::write(&path, OPENING.to_string()).unwrap();
            let mut stage = Stage::default();
            for holder in holders.clone() {
                let path = path.clone();
                stage.add(move |gate| deposit(path, gate, program, holder));
            }
            let ends = stage.play(&order, None::<(usize, std::future::Ready<()>)>).await;
            let balance = fs::read_to_string(&path).unwrap().parse().unwrap();
            let wrong = wrong(&holders, &ends, balance);
            assert!(program != Program::Raises || wrong.is_none(), "{order:?}: {wrong:?}");
            usize::from(wrong.is_some())
        });
    }
    let lost = plays.join_all().await.into_iter().sum();
    println!("{program:?} loses in {lost} of {}", orders.len());
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_loses_nothing() {
    losses(Program::Raises, &[5, 6], &orders::all(4)).await;
    losses(Program::Raises, &[5, 6, 7], &orders::some(930, 3, 4, 9)).await;
    let mut rounds = 1;
    while losses(Program::ChecksAndWrites, &[5, 6], &orders::all(4)).await == 0 {
        assert!(rounds < 5, "to check and then write is wrong, and nothing showed it");
        rounds += 1;
    }
}

fn fence(token: u64) -> Fence {
    Fence::new(FenceName::of_lock("of-processes"), token)
}

/// The holder in a process of its own: raises, says so, and keeps the file until it is ended.
#[test]
fn holder_process() {
    let Some(path) = std::env::var_os("TOOZ_FENCE_HOLDER") else { return };
    let _file = raise(path, fence(5)).unwrap();
    println!("\nheld");
    let _ = std::io::stdin().read(&mut [0]);
}

/// Ends with the test, whatever comes of it.
struct Process(Child);

impl Process {
    fn holder(path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "file::holder_process", "--nocapture"]);
        command.env("TOOZ_FENCE_HOLDER", path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Self(command.spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line == "held"));
        process
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_paused_process_keeps_the_file_and_a_killed_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let holder = Process::holder(&path);
    holder.signal(Signal::SIGSTOP);
    let (sender, next) = mpsc::channel();
    let later = path.clone();
    std::thread::spawn(move || {
        let file = raise(later, fence(6));
        let _ = sender.send(file.map(|mut file| file.replace(b"later").unwrap()));
    });
    assert!(next.recv_timeout(Duration::from_millis(200)).is_err(), "it is held");
    holder.signal(Signal::SIGKILL);
    next.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert!(raise(&path, fence(5)).unwrap_err().is_stale());
    assert_eq!(fs::read(&path).unwrap(), b"later");
}
