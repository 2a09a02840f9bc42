//! Locks, groups and elections side by side: this library, the bare client's round trip, the
//! Python original and other crates, over real servers, in one run. `cargo xtask bench` starts it.
//!
//! Each contestant is a process that is asked by JSON lines; the run asks all of them in turn, a
//! little at a time, so that the machine's noise hits them alike.

mod contestant;
mod counters;
mod machine;
mod measures;

mod setups;
mod tap;
mod worker;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use tooz_benches::record::{Book, Results};
use tooz_benches::report;

/// The folder of the results, from the package's own.
const RESULTS: &str = "../docs/benchmarks";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["--worker", name, runtime] => worker::serve(name, runtime),
        // What cargo passes when it runs the target itself, without servers.
        [] | ["--bench"] | ["--test"] => Ok(()),
        ["--run", form] => run(form),
        ["--report"] => render(),
        _ => Err(anyhow::anyhow!("unknown arguments: {arguments:?}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, and writes down what came out.
fn run(form: &str) -> anyhow::Result<()> {
    let form = match form {
        "full" => measures::Form::Full,
        "quick" => measures::Form::Quick,
        other => bail!("no form of a run is called {other}"),
    };
    let setups = setups::wanted()?;
    let mut book = Book::default();
    measures::run(&setups, form, &mut book)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(match form {
        measures::Form::Full => RESULTS,
        // A look that proves nothing leaves the documentation alone.
        measures::Form::Quick => "../target/benchmarks",
    });
    let results = book.into_results(machine::describe(&setups)?);
    report::write(&results, &folder)?;
    println!("written to {}", folder.display());
    Ok(())
}

/// Writes the page of the figures that are there, again.
fn render() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(RESULTS);
    let file = folder.join("results.json");
    let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
    let results: Results = serde_json::from_slice(&text)?;
    report::write_page(&results, &folder)
}
