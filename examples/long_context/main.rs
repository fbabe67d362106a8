//! Long-context retrieval without weights. Look at the column `found`: 6/6 means that the five digits of the passkey came back from all
//! depths of the text. Dense and hierarchical attention should find them at any length, a window only near the ends of the text, a
//! state of fixed size only in a short one.
//!
//! It is an induction head. Keys embed the bytes before a place, values the byte at it, the query the last bytes of the text: so
//! attention finds earlier occurrences of the context, and what comes back is the byte that followed.

mod cache;
mod charts;
mod embed;
mod head;
mod mechanisms;
mod options;
mod state;
mod summaries;
mod survey;
mod text;

use options::Options;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let clock = Instant::now();
    let Some(options) = Options::parse(std::env::args().skip(1))? else { return Ok(()) };
    let chosen = options.chosen()?;
    let runtime = options.runtime()?;
    let haystack = text::haystack(options.text.as_deref()).map_err(|e| e.to_string())?;
    std::fs::create_dir_all(&options.out).map_err(|e| format!("{}: {e}", options.out.display()))?;
    let longest = options.lengths.last().copied().unwrap_or_default();
    let repeated = if haystack.len() < longest { ", repeated where a context is longer" } else { "" };
    println!("engine    {runtime}");
    runtime.notice().into_iter().for_each(|notice| println!("notice    {notice}"));
    println!("haystack  {} bytes{repeated}", haystack.len());
    println!("needle    `{}` at {} depths from 0 % to 100 %", text::NEEDLE, options.depths.len());
    println!("prompt    `{}`, then {} bytes are generated\n", text::PROMPT, text::ANSWER.len());

    let (measures, failures) = survey::survey(&runtime, &chosen, &haystack, &options);

    println!("\nms/token: median over all bytes generated, each appended, attended, read back and decoded.");
    println!("prefill: caches are written, states run through the text; the embedding is not counted.");
    println!(
        "block-sparse-attention, hisa and native-sparse-attention take no `lengths`: each of their steps is planned anew."
    );
    println!("held: cache or state. {} bytes in device buffers at the end.", runtime.memory().held);
    for (name, svg) in
        [("grid.svg", charts::grid(&measures, &options)), ("time.svg", charts::curves(&measures, &runtime))]
    {
        let path = options.out.join(name);
        let svg = svg.map_err(|e| format!("{name}: {e}"))?;
        std::fs::write(&path, svg).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {}", path.display());
    }
    println!("{:.0} s in all", clock.elapsed().as_secs_f64());
    if failures > 0 { Err(format!("{failures} of {} variants failed", chosen.len())) } else { Ok(()) }
}
