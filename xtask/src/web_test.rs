//! `web-test`: builds the browser tests, shows them to a browser and prints what it reports, in the words of cargo's own
//! test runner.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::browser::{self, Chromium};
use crate::server::{self, Message, Site};
use crate::wasm;

/// Longest silence of the page, in which it starts or runs one test.
const SILENCE_LIMIT: Duration = Duration::from_secs(180);

/// Runs the tests whose names contain `filter` in headless Chromium.
pub fn headless(filter: &str) -> Result<()> {
    // Before the long build, not after.
    browser::find()?;
    let (url, receiver) = start(filter)?;
    let mut chromium = Chromium::open(&url)?;
    let outcome = collect(&receiver, |silence| {
        if silence > SILENCE_LIMIT {
            bail!("the page has said nothing for {} s", SILENCE_LIMIT.as_secs());
        }
        chromium.check()
    });
    if outcome.is_err() {
        eprintln!("---- Chromium's log, last lines ----\n{}\n", chromium.log_tail());
    }
    outcome
}

/// Runs the tests whose names contain `filter` in the browser that opens the printed address.
pub fn serve(filter: &str) -> Result<()> {
    let (url, receiver) = start(filter)?;
    println!("open {url} in a browser with WebGPU");
    collect(&receiver, |_| Ok(()))
}

/// Builds and serves; returns the address of the page.
fn start(filter: &str) -> Result<(String, Receiver<Message>)> {
    if let Some(odd) = filter.chars().find(|char| !char.is_ascii_alphanumeric() && !"_-:./".contains(*char)) {
        bail!("no test has `{odd}` in its name");
    }
    let tests = crate::root().join("tests");
    let site = Site { page: tests.join("web/page"), module: wasm::build_tests()?, cases: tests.join("golden") };
    let (address, receiver) = server::start(site)?;
    Ok((format!("http://{address}/?filter={filter}"), receiver))
}

/// Prints outcomes until the page is done. `idle` is called about once a second while the page is silent, with the length
/// of the silence; an error that it returns ends the run.
fn collect(receiver: &Receiver<Message>, mut idle: impl FnMut(Duration) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let mut heard = start;
    let mut running = None;
    let mut passed = 0;
    let mut failures: Vec<(String, String)> = Vec::new();
    let end = loop {
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::Started(name)) => running = Some(name),
            Ok(Message::Passed(name, remark)) => {
                running = None;
                passed += 1;
                println!("test {name} ... ok{}", if remark.is_empty() { remark } else { format!(" ({remark})") });
            }
            Ok(Message::Failed(name, reason)) => {
                running = None;
                println!("test {name} ... FAILED");
                failures.push((name, reason));
            }
            Ok(Message::Done(count)) if count == passed + failures.len() => break Ok(()),
            Ok(Message::Done(count)) => break Err(anyhow!("the page ran {count} tests; not all of them reported")),
            Ok(Message::Aborted(reason)) => break Err(anyhow!("the page gave up: {reason}")),
            Err(RecvTimeoutError::Disconnected) => break Err(anyhow!("the server has ended")),
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = idle(heard.elapsed()) {
                    break Err(error);
                }
                continue;
            }
        }
        heard = Instant::now();
    };

    if let Some(name) = running {
        println!("test {name} ... did not end");
    }
    for (name, reason) in &failures {
        println!("\n---- {name} ----\n{reason}");
    }
    let good = end.is_ok() && failures.is_empty() && passed > 0;
    println!(
        "\ntest result: {}. {passed} passed; {} failed; finished in {:.2}s\n",
        if good { "ok" } else { "FAILED" },
        failures.len(),
        start.elapsed().as_secs_f64(),
    );
    end?;
    if !failures.is_empty() {
        bail!("{} browser tests failed", failures.len());
    }
    if passed == 0 {
        bail!("no browser test was run");
    }
    Ok(())
}
