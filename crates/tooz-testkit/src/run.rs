//! Runs cases as tests.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};
use tokio::runtime::Builder;
use tooz_core::DriverEntry;

use crate::case::Company;
use crate::context::Context;
use crate::control::Control;
use crate::fixture::server_variable;
use crate::worker::{is_worker, serve};
use crate::{Case, Fixture, Matrix, World};

/// The setups to run, separated by commas. Without it: those that need no server.
const SETUPS: &str = "TOOZ_TEST_SETUPS";

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(60);

/// As many as ever run at once: see [`at_once`].
const THREADS: usize = 8;

/// How many cases of a kind run at once. Cases mostly wait, so that more of them fit than there are
/// cores; a few, for the bounds to hold.
const fn at_once(company: Company) -> usize {
    match company {
        Company::Any | Company::Still => 4,
        // They do little more than wait for times to live.
        Company::Quiet => THREADS,
        Company::None => 1,
        // A start of a server makes load.
        Company::OtherServers => 6,
    }
}

/// The whole `main` of a test target with `harness = false`: a test `setup::area::case` for each
/// case of each setup.
///
/// `matrix` is the text of the committed capability matrix: see [`Matrix::parse`]. It alone
/// excuses a setup from an area, and it must agree with what the driver declares.
///
/// The environment says which setups are run: `TOOZ_TEST_SETUPS` names them, separated by commas.
/// Without it, those are run that need no server. A run of no case fails, unless the arguments of
/// such a run filtered them out.
pub fn main(fixtures: Vec<Arc<dyn Fixture>>, matrix: &str) -> ExitCode {
    let drivers: Vec<_> = fixtures.iter().map(|fixture| fixture.driver()).collect();
    if let Some(code) = worker(&drivers) {
        return code;
    }
    let args = Arguments::from_args();
    let named = std::env::var(SETUPS).ok();
    let trials = Matrix::parse(matrix).and_then(|matrix| {
        let chosen = choose(&fixtures, named.as_deref())?;
        trials(&chosen, &matrix)
    });
    let trials = match trials {
        Ok(trials) => trials,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::FAILURE;
        }
    };
    let args = Arguments { test_threads: args.test_threads.or(Some(THREADS)), ..args };
    let conclusion = libtest_mimic::run(&args, trials);
    if named.is_some() && !args.list {
        tell_times();
    }
    if !args.list && ran_nothing(&conclusion, named.is_some()) {
        eprintln!("error: no case was run");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Whether the run proves nothing, and nobody meant it to: `cargo test NAME` runs every target of
/// a workspace, and filters out all of most.
fn ran_nothing(conclusion: &Conclusion, setups_named: bool) -> bool {
    let filtered = !setups_named && conclusion.num_filtered_out > 0;
    conclusion.num_passed + conclusion.num_failed == 0 && !filtered
}

/// Makes this process a worker, if it was started as one by a case over several processes: it
/// serves, and ends with the code.
///
/// For a `main` that calls [`check`] itself: this comes first there, as it does in [`main`].
pub fn worker(drivers: &[DriverEntry]) -> Option<ExitCode> {
    is_worker().then(|| serve(drivers))
}

/// The setups that were asked for.
fn choose(
    fixtures: &[Arc<dyn Fixture>],
    named: Option<&str>,
) -> Result<Vec<Arc<dyn Fixture>>, String> {
    let Some(named) = named else {
        return Ok(fixtures.iter().filter(|fixture| !fixture.needs_server()).cloned().collect());
    };
    let names: BTreeSet<_> =
        named.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    names
        .into_iter()
        .map(|name| {
            let fixture = fixtures.iter().find(|fixture| fixture.name() == name);
            let known = || fixtures.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
            let fixture = fixture
                .ok_or_else(|| format!("{SETUPS}: there is no setup {name}; known: {}", known()))?;
            let variable = server_variable(name);
            if fixture.needs_server() && std::env::var_os(&variable).is_none() {
                return Err(format!("the setup {name} needs {variable}"));
            }
            Ok(fixture.clone())
        })
        .collect()
}

fn trials(fixtures: &[Arc<dyn Fixture>], matrix: &Matrix) -> Result<Vec<Trial>, String> {
    for fixture in fixtures {
        matrix.agrees(fixture.name(), &fixture.driver())?;
    }
    // Kind by kind, for kinds do not mix, and case by case, for the setups' servers to share the
    // work and the waiting.
    let mut cases: Vec<_> = Case::all().collect();
    cases.sort_by_key(|case| case.company());
    let trial = |case: &Case, fixture: &Arc<dyn Fixture>| {
        let name = test_name(&**fixture, case);
        let excuse = matrix.excuse(fixture.name(), case.areas()).map(str::to_owned);
        let excuse = excuse.or_else(|| spared(&**fixture, case));
        let (case, fixture) = (*case, fixture.clone());
        Trial::ignorable_test(name, move || match excuse {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                in_turn(&fixture, &case).map_err(Failed::from)?;
                Ok(Completion::Completed)
            }
        })
    };
    let each = |case| fixtures.iter().map(move |fixture| (case, fixture));
    Ok(cases.into_iter().flat_map(each).map(|(case, fixture)| trial(case, fixture)).collect())
}

/// Why a case that harms the server is not run.
fn spared(fixture: &dyn Fixture, case: &Case) -> Option<String> {
    if case.company() != Company::OtherServers {
        return None;
    }
    if Control::of(fixture.name()).is_none() {
        return Some(Control::missing(fixture.name()));
    }
    fixture.forgets_at_a_crash().map(str::to_owned)
}

fn test_name(fixture: &dyn Fixture, case: &Case) -> String {
    format!("{}::{}::{}", fixture.name(), case.area(), case.name())
}

/// How long each case took, without the wait for its turn.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// How many of the slowest cases are told.
const SLOWEST: usize = 10;

/// Where the time went, for people.
fn tell_times() {
    let mut times = std::mem::take(&mut *TIMES.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_unstable_by(|a, b| b.cmp(a));
    let all: Duration = times.iter().map(|(time, _)| *time).sum();
    println!("{:.1} s in cases, of which the slowest took", all.as_secs_f32());
    for (time, name) in times.iter().take(SLOWEST) {
        println!("{:>7.1} s  {name}", time.as_secs_f32());
    }
}

/// What runs now.
struct Running {
    /// The kind, and how many of it.
    kind: (Company, usize),
    /// The servers that are being harmed.
    harmed: Vec<Control>,
}

static RUNNING: Mutex<Running> =
    Mutex::new(Running { kind: (Company::Any, 0), harmed: Vec::new() });
/// Told whenever a case ends.
static ENDED: Condvar = Condvar::new();

fn in_turn(fixture: &Arc<dyn Fixture>, case: &Case) -> Result<(), String> {
    let harmed = match case.company() {
        Company::OtherServers => Control::of(fixture.name()),
        _ => None,
    };
    let _turn = Turn::wait(case.company(), harmed);
    let start = Instant::now();
    let result = check(fixture, case, LIMIT);
    let time = (start.elapsed(), test_name(&**fixture, case));
    TIMES.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    result
}

/// A case's turn to run, with the company that it bears.
struct Turn {
    harmed: Option<Control>,
}

impl Turn {
    fn wait(company: Company, harmed: Option<Control>) -> Self {
        let must_wait = |running: &mut Running| {
            let (kind, count) = running.kind;
            count > 0 && (kind != company || count >= at_once(company))
                || harmed.iter().any(|server| running.harmed.contains(server))
        };
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = ENDED.wait_while(running, must_wait);
        let mut running = turn.unwrap_or_else(PoisonError::into_inner);
        running.kind = (company, running.kind.1 + 1);
        running.harmed.extend(harmed.clone());
        Self { harmed }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.kind.1 -= 1;
        running.harmed.retain(|server| Some(server) != self.harmed.as_ref());
        ENDED.notify_all();
    }
}

/// Runs one case on a setup, in a world and a runtime of its own, and says what went wrong.
///
/// After the case, whatever coordinators it left running are stopped, and the backend must have
/// nothing of theirs.
///
/// # Errors
/// What the case found, or what it waited for when its time limit was over.
pub fn check(fixture: &Arc<dyn Fixture>, case: &Case, limit: Duration) -> Result<(), String> {
    let shown = test_name(&**fixture, case);
    let (fixture, case) = (fixture.clone(), *case);
    let (report, outcome) = mpsc::channel();
    // The thread has the test's name, which the message of a panic shows.
    let thread = std::thread::Builder::new().name(shown).spawn(move || {
        let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(report.send(Err(error.to_string()))),
        };
        let result = runtime.block_on(run(&*fixture, &case, limit));
        runtime.shutdown_background();
        // An error means that the test is over.
        drop(report.send(result));
    });
    let thread = thread.map_err(|error| format!("the thread of the case: {error}"))?;
    match outcome.recv_timeout(limit + Duration::from_secs(10)) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(format!("blocked its thread for over {limit:?}")),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err().map(|panic| words(&*panic).to_owned());
            Err(panic.unwrap_or_else(|| "ended without an outcome".to_owned()))
        }
    }
}

async fn run(fixture: &dyn Fixture, case: &Case, limit: Duration) -> Result<(), String> {
    let world = fixture.world().await.map_err(|error| format!("no world: {error:?}"))?;
    let world: Arc<dyn World> = world.into();
    let result = match Context::new(fixture.name(), fixture.driver(), world.clone()) {
        Ok(context) => run_in(&context, case, limit).await,
        Err(error) => Err(format!("{error:?}")),
    };
    let removed = world.remove().await.map_err(|error| format!("not removed: {error:?}"));
    result.and(removed)
}

async fn run_in(context: &Context, case: &Case, limit: Duration) -> Result<(), String> {
    let work = async {
        case.run(context).await?;
        context.finish().await
    };
    match tokio::time::timeout(limit, caught(work)).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(format!("{error:?}")),
        Ok(Err(panic)) => Err(panic),
        Err(_) => Err(format!("after {limit:?} still waiting for: {}", context.waiting_for())),
    }
}

/// The outcome of `future`, or the words that it panicked with.
async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(words(&*panic).to_owned())),
    })
    .await
}

fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(words) = panic.downcast_ref::<String>() {
        return words;
    }
    panic.downcast_ref::<&str>().copied().unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use tooz_core::{Result, async_trait};

    use super::*;

    #[derive(Clone)]
    struct Nothing {
        name: &'static str,
        needs_server: bool,
    }

    #[async_trait]
    impl Fixture for Nothing {
        fn name(&self) -> &str {
            self.name
        }

        fn driver(&self) -> DriverEntry {
            tooz_memory::DRIVER
        }

        fn needs_server(&self) -> bool {
            self.needs_server
        }

        async fn world(&self) -> Result<Box<dyn World>> {
            Ok(Box::new(self.clone()))
        }
    }

    #[async_trait]
    impl World for Nothing {
        fn url(&self) -> &str {
            "memory://"
        }

        fn ttl(&self) -> Option<Duration> {
            None
        }

        async fn residue(&self) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        async fn take_session_away(&self, _: &tooz_core::MemberId) -> Result<()> {
            Ok(())
        }

        async fn remove(&self) -> Result<()> {
            Ok(())
        }
    }

    fn fixtures() -> Vec<Arc<dyn Fixture>> {
        vec![
            Arc::new(Nothing { name: "local", needs_server: false }),
            Arc::new(Nothing { name: "far-away", needs_server: true }),
        ]
    }

    fn chosen(named: Option<&str>) -> Result<Vec<String>, String> {
        let chosen = choose(&fixtures(), named)?;
        Ok(chosen.iter().map(|fixture| fixture.name().to_owned()).collect())
    }

    #[test]
    fn setups_are_chosen_by_name_or_by_needing_no_server() {
        assert_eq!(chosen(None).unwrap(), ["local"]);
        assert_eq!(chosen(Some(" local,")).unwrap(), ["local"]);
        let error = chosen(Some("local,lokal")).unwrap_err();
        assert!(error.contains("no setup lokal; known: local, far-away"), "{error}");
        let error = chosen(Some("far-away")).unwrap_err();
        assert!(error.contains("needs TOOZ_TEST_URL_FAR_AWAY"), "{error}");
    }

    #[test]
    fn a_case_that_harms_its_server_is_not_run_where_nobody_offers_that() {
        let harmful = Case::all().find(|case| case.company() == Company::OtherServers).unwrap();
        let harmless = Case::all().find(|case| case.company() == Company::Any).unwrap();
        let reason = spared(&*fixtures()[1], harmful).unwrap();
        assert!(reason.contains("TOOZ_TEST_CONTROL_FAR_AWAY"), "{reason}");
        assert_eq!(spared(&*fixtures()[1], harmless), None);
    }

    #[test]
    fn a_server_is_harmed_by_one_case_at_a_time() {
        let turn = |server| Turn::wait(Company::OtherServers, Some(Control::at(server)));
        let (first, other) = (turn("a"), turn("b"));
        let (told, second) = mpsc::channel();
        let thread = std::thread::spawn(move || told.send(turn("a")).unwrap());
        // Nothing tells that something does not happen, but time.
        assert!(second.recv_timeout(Duration::from_millis(50)).is_err(), "while it is harmed");
        drop(first);
        assert!(second.recv_timeout(Duration::from_secs(5)).is_ok());
        thread.join().unwrap();
        drop(other);
    }

    #[test]
    fn a_run_of_nothing_fails_unless_it_was_filtered() {
        let conclusion = |num_passed, num_ignored, num_filtered_out| Conclusion {
            num_filtered_out,
            num_passed,
            num_failed: 0,
            num_ignored,
            num_measured: 0,
        };
        assert!(!ran_nothing(&conclusion(1, 0, 0), false));
        assert!(ran_nothing(&conclusion(0, 0, 0), false));
        assert!(ran_nothing(&conclusion(0, 9, 0), false), "what is ignored is not run");
        assert!(!ran_nothing(&conclusion(0, 0, 9), false), "cargo test SOMETHING_ELSE");
        assert!(ran_nothing(&conclusion(0, 0, 9), true), "the setups were asked for");
    }

    #[test]
    fn a_case_ends_with_its_time_and_says_what_it_waited_for() {
        let case = Case::new(crate::Area::Locks, "hangs", |context| {
            Box::pin(async {
                context.soon("what never comes", std::future::pending::<()>()).await;
                Ok(())
            })
        });
        let error = check(&fixtures()[0], &case, Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("still waiting for: what never comes"), "{error}");
    }

    #[test]
    fn a_case_that_panics_fails_with_its_words() {
        let case = Case::new(crate::Area::Locks, "panics", |_| Box::pin(async { panic!("so") }));
        assert_eq!(check(&fixtures()[0], &case, LIMIT).unwrap_err(), "so");
    }
}
