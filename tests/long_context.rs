//! The example `long_context` on 4 Ki bytes: what must find the needle finds it, and the window loses exactly what it lost.
#![allow(dead_code, reason = "a part of the example is not used here")]

#[path = "../examples/long_context/cache.rs"]
mod cache;
#[path = "../examples/long_context/embed.rs"]
mod embed;
#[path = "../examples/long_context/head.rs"]
mod head;
#[path = "../examples/long_context/mechanisms.rs"]
mod mechanisms;
#[path = "../examples/long_context/state.rs"]
mod state;
#[path = "../examples/long_context/summaries.rs"]
mod summaries;
#[path = "../examples/long_context/text.rs"]
mod text;

use mechanisms::{ALL, STREAM};
use text::{ANSWER, PROMPT};
use wgpu_attention::Runtime;

const LENGTH: usize = 4096;

/// What is generated for each depth: the prompt and the answer.
fn answers(variant: &str) -> Vec<(Vec<u8>, String)> {
    let runtime = Runtime::cpu();
    let haystack = text::haystack(None).expect("the text of this repository");
    let mechanism = ALL.iter().find(|m| m.name == variant).expect("a variant of the example");
    let mut head = (mechanism.make)(&runtime, LENGTH).expect("a head");
    (0..=20)
        .map(|n| {
            let prompt = text::prompt(&haystack, LENGTH, f64::from(n) / 20.0);
            let trial = head::generate(&mut *head, &prompt).expect("five bytes");
            (prompt, String::from_utf8_lossy(&trial.answer).into_owned())
        })
        .collect()
}

fn finds_all(variant: &str) {
    let wrong: Vec<String> = answers(variant).into_iter().map(|(_, answer)| answer).filter(|a| a != ANSWER).collect();
    assert!(wrong.is_empty(), "{variant} answered {wrong:?}");
}

#[test]
fn prompts_hold_the_needle_once() {
    for (prompt, _) in answers("streaming-attention") {
        let times = prompt.windows(PROMPT.len()).filter(|w| *w == PROMPT.as_bytes()).count();
        assert_eq!((prompt.len() + ANSWER.len(), times), (LENGTH, 2), "the needle's and the one at the end");
        assert!(prompt.ends_with(PROMPT.as_bytes()));
    }
}

#[test]
fn split_kv_decode_finds_every_needle() {
    finds_all("split-kv-decode");
}

#[test]
fn block_sparse_attention_finds_every_needle() {
    finds_all("block-sparse-attention");
}

#[test]
fn hisa_finds_every_needle() {
    finds_all("hisa");
}

#[test]
fn native_sparse_attention_finds_every_needle() {
    finds_all("native-sparse-attention");
}

#[test]
fn streaming_finds_the_needles_in_sink_and_window_and_no_others() {
    let (sink, recent) = STREAM;
    let mut seen = [0, 0];
    for (prompt, answer) in answers("streaming-attention") {
        let at = prompt.windows(PROMPT.len()).position(|w| w == PROMPT.as_bytes()).expect("a needle") + PROMPT.len();
        // As many bytes are appended as the needle's digit moves on, so the window loses all digits or none.
        let kept = at + ANSWER.len() <= sink || at >= prompt.len() - recent;
        assert_eq!(answer == ANSWER, kept, "needle's digits at {at} of {}: {answer:?}", prompt.len());
        seen[usize::from(kept)] += 1;
    }
    assert!(seen[0] > 10 && seen[1] > 3, "depths on both sides: {seen:?}");
}

#[test]
fn linear_attention_finds_the_needles_of_a_short_text() {
    // 1 Ki bytes against 4 Ki rows of the state: what the other keys leave in it is far below the needle.
    let (runtime, haystack) = (Runtime::cpu(), text::haystack(None).expect("the text of this repository"));
    let mechanism = ALL.iter().find(|m| m.name == "linear-attention").expect("a variant of the example");
    let mut head = (mechanism.make)(&runtime, 1024).expect("a head");
    for depth in [0.0, 0.5, 1.0] {
        let trial = head::generate(&mut *head, &text::prompt(&haystack, 1024, depth)).expect("five bytes");
        assert_eq!(String::from_utf8_lossy(&trial.answer), ANSWER, "depth {depth}");
    }
}
