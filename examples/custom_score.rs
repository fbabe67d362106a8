//! Write your own attention: a score and a mask in WGSL, run on the GPU if there is one, else on the CPU, which interprets the same text.
//! Look at the two texts below, and at the last lines printed: the same numbers computed in plain Rust.
//!
//! `cargo run --release --example custom_score`

use wgpu_attention::variants::dense::DenseAttention;
use wgpu_attention::{Along, Hooked, HostTensor, Inputs, Result, Runtime, UserHook};

// Scores fade with the distance, faster in some heads, and are bounded to (-cap, cap) first.
const SCORE: &str = "
fn bounded(s: f32, cap: f32) -> f32 {
    let e = exp(-2.0 * abs(s / cap));
    return sign(s) * cap * (1.0 - e) / (1.0 + e);
}

fn score(s: f32, at: At, cap: f32, fade: f32) -> f32 {
    return bounded(s, cap) - fade * log(1.0 + f32(abs(at.query - at.key)));
}";

// A token sees its own document, and no later token.
const MASK: &str = "
fn mask(at: At, doc_q: i32, doc_k: i32) -> bool {
    return doc_q == doc_k && at.key <= at.query;
}";

const HEADS: usize = 4;
const LENGTH: usize = 512;
const WIDTH: usize = 32;

fn main() -> Result<()> {
    let runtime = Runtime::new_blocking();
    println!("{runtime}");

    let fades: Vec<f32> = (0..HEADS).map(|h| 0.25 * (h + 1) as f32).collect();
    let documents: Vec<i32> = (0..LENGTH).map(|n| n as i32 / 100).collect();
    let table = HostTensor::new(&[LENGTH], documents.clone())?;
    let score = UserHook::score(SCORE)?
        .with("cap", 5.0_f32)?
        .with("fade", (&HostTensor::new(&[HEADS], fades.clone())?, Along::Heads))?;
    // An input is given at every call; a tensor would become part of the plan.
    let mask = UserHook::mask(MASK)?.with("doc_q", ("doc", Along::Queries))?.with("doc_k", ("doc", Along::Keys))?;
    let attention = Hooked::new(DenseAttention::default()).hook(score).hook(mask);

    let wave = |step: f32| HostTensor::from_fn(&[1, HEADS, LENGTH, WIDTH], move |n| (n as f32 * step).sin());
    let (q, k, v) = (wave(0.11), wave(0.23), wave(0.37));
    let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("doc", &table);
    let plan = runtime.plan(&attention, &inputs)?;
    plan.notes.iter().for_each(|note| println!("{note}"));
    let outputs = runtime.call_blocking(&attention, &inputs)?;
    let out = outputs.get("out")?.to_f64();

    // The same, written out for one row.
    let (head, i) = (2, 345);
    let [q, k, v] = [&q, &k, &v].map(HostTensor::to_f64);
    let row = |x: &[f64], n: usize| x[(head * LENGTH + n) * WIDTH..][..WIDTH].to_vec();
    let visible: Vec<usize> = (0..=i).filter(|&j| documents[j] == documents[i]).collect();
    let weight = |j: usize| {
        let s: f64 = row(&q, i).iter().zip(row(&k, j)).map(|(a, b)| a * b).sum::<f64>() * (WIDTH as f64).powf(-0.5);
        let s = 5.0 * (s / 5.0).tanh() - f64::from(fades[head]) * (1.0 + (i - j) as f64).ln();
        s.exp()
    };
    let sum: f64 = visible.iter().map(|&j| weight(j)).sum();
    let want: Vec<f64> =
        (0..WIDTH).map(|d| visible.iter().map(|&j| weight(j) * row(&v, j)[d]).sum::<f64>() / sum).collect();
    let got = row(&out, i);
    let worst = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("out[2, 345, 0..3]  {:.5} {:.5} {:.5}", got[0], got[1], got[2]);
    println!("in plain Rust      {:.5} {:.5} {:.5}", want[0], want[1], want[2]);
    println!("largest difference {worst:.1e}: {}", if worst < 1e-5 { "the same" } else { "NOT the same" });
    Ok(())
}
