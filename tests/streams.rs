//! A call on a stretch of tokens with the state of the stretch before equals one call on all of them, for every causal variant that has a
//! state, at random splits, on every engine. Read off the cards: an output that is also an input is state, an axis `L` is the tokens.

mod common;

use std::collections::BTreeMap;

use common::{Budget, close, engines, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::variants::CATALOG;
use wgpu_attention::{Card, DType, Entry, Family, HostTensor, Inputs, OutputSpec, Outputs, State, Value, variant};

const SIZES: [(&str, usize); 23] = [
    ("B", 2),
    ("H", 4),
    ("Hk", 2),
    ("G", 2),
    ("L", LENGTH),
    ("Lq", LENGTH),
    ("Lk", LENGTH),
    ("D", 12),
    ("Dv", 10),
    ("P", 10),
    ("Ns", 12),
    ("K", 4),
    ("F", 24),
    ("Dp", 12),
    ("Do", 9),
    ("Hid", 10),
    ("M", 3),
    ("Ch", 16),
    ("Y", 7),
    ("X", 9),
    ("Cx", 6),
    ("Da", 5),
    ("2", 2),
];
const LENGTH: usize = 53;

/// Parameters of every call: blocks of one token end with every stretch; no other matrix fits the shapes in words.
const ALWAYS: [(&str, &str, &str); 4] = [
    ("nats-l", "block", "1"),
    ("nats-l-block-types", "block", "8"),
    ("hyper-zzw", "mode", "elementwise"),
    ("titans-memory", "chunk", "4"),
];

/// Results that look at more of the past than the state holds: the keys of a window come with the call.
const WINDOWS: [(&str, &str); 6] = [
    ("lizard", "out"),
    ("lizard", "window"),
    ("lizard", "window_lse"),
    ("nats-l", "out"),
    ("nats-l", "softmax"),
    ("nats-l", "lse"),
];

fn entries() -> impl Iterator<Item = &'static Entry> {
    let streams = |e: &&Entry| e.card().outputs.iter().any(|o| e.card().input(o.name).is_some());
    CATALOG.iter().flat_map(|family| family.iter()).filter(|e| e.card().family == Family::Linear).filter(streams)
}

fn words(card: &Card, name: &str) -> Vec<&'static str> {
    let shape = card.inputs.iter().find(|i| i.name == name).map_or("", |i| i.shape);
    // The last alternative is the widest.
    let widest = shape.split('|').next_back().unwrap_or_default().trim();
    widest.trim_start_matches("broadcastable to").split_whitespace().collect()
}

fn size(card: &str, word: &str) -> usize {
    let letter = |name: &str| SIZES.iter().find(|(n, _)| *n == name).map(|(_, n)| *n);
    match word.trim_matches(['(', ')']) {
        "K-1" => 3,
        "P+L" => 10 + LENGTH,
        "Hid" if card == "titans-mal" => 12,
        // Without theta the state of transnormer-llm has D rows.
        "2*D" if card == "transnormer-llm" => 12,
        "2*D" => 24,
        "D//2" => 6,
        "H*Dv" => 40,
        "Ch//conv_groups" => 1,
        // Blocks of one token.
        "L+block-1)//block" => LENGTH,
        // Taps of a kernel that has a middle.
        "K" if ["hyper-zzw-local", "efficient-local-attention"].contains(&card) => 5,
        word => letter(word).unwrap_or_else(|| panic!("no size for {word}")),
    }
}

/// Numbers that keep the recurrences stable: decays below 0, rates from 0 to 1, keys of moderate length.
fn fill(card: &Card, name: &str, seed: u64) -> HostTensor {
    let shape: Vec<usize> = words(card, name).iter().map(|w| size(card.name, w)).collect();
    if card.input(name).is_some_and(|i| i.dtype == DType::U8) {
        let flags = (0..shape.iter().product()).map(|n: usize| u8::from(n * n % 7 < 3)).collect::<Vec<_>>();
        return HostTensor::new(&shape, flags).expect(name);
    }
    let raw = random(&shape, seed);
    let map =
        |of: fn(f32) -> f32| HostTensor::new(&shape, raw.to_f32().into_iter().map(of).collect::<Vec<_>>()).expect(name);
    match (card.name, name) {
        ("ssd", "a") => map(|x| -x.abs()),
        ("selective-scan", "a") => map(|x| -x.abs()),
        ("ssd" | "selective-scan", "dt") => map(|x| 0.2 * x.abs()),
        ("aaren", "u") => map(|x| 0.5 + x.abs()),
        ("rwkv-7", "kappa") => map(|x| x * 0.25),
        ("windowed-least-squares", "weight") => map(f32::abs),
        (_, "alpha") if card.name.starts_with("titans") => map(|x| 0.1 / (1.0 + (-x).exp())),
        (_, "theta") if card.name.starts_with("titans") => map(|x| 0.02 / (1.0 + (-x).exp())),
        (_, "eta") => map(|x| 0.5 / (1.0 + (-x).exp())),
        (_, "weight0" | "weight1") => map(|x| 0.3 * x),
        (_, "ridge_diag") => map(|x| 0.5 + x.abs()),
        (_, "log_decay") => map(|x| -0.2 * x.abs()),
        (_, "beta" | "a" | "alpha") => map(|x| 1.0 / (1.0 + (-x).exp())),
        _ => raw,
    }
}

/// The tokens from `first` to `end` of an input; what has no such axis stays whole.
fn part(card: &Card, name: &str, x: &HostTensor, first: usize, end: usize) -> HostTensor {
    match words(card, name).iter().position(|w| ["L", "Lq", "Lk", "(L+block-1)//block"].contains(w)) {
        Some(axis) => x.narrow(axis, first, end - first).contiguous(),
        None => x.clone(),
    }
}

fn params(card: &Card, optional: bool) -> Vec<(String, Value)> {
    if card.name == "scan" && optional {
        // A bonus belongs to a read before the write.
        return vec![("read".to_owned(), Value::Text("before".to_owned()))];
    }
    let always = ALWAYS.iter().filter(|(name, ..)| *name == card.name);
    let mut list: Vec<_> = always.map(|(_, name, value)| ((*name).to_owned(), Value::parse(value))).collect();
    if card.name == "titans-memory" {
        let (act, read) = if optional { ("tanh", "before") } else { ("silu", "after") };
        list.extend([("act", act), ("read", read)].map(|(name, word)| (name.to_owned(), Value::Text(word.to_owned()))));
    }
    list
}

fn splits(seed: usize) -> Vec<usize> {
    // A stretch, two single tokens, a stretch, a single one, the rest.
    let first = 5 + seed * 7 % 20;
    vec![0, first, first + 1, first + 2, first + 2 + (seed * 5 + 3) % 17, first + 3 + (seed * 5 + 3) % 17, LENGTH]
}

/// The inputs that are no state: all of them, or the required ones. Where two exclude each other, the later ones are left out.
fn given(card: &Card, optional: bool) -> Vec<(&'static str, HostTensor)> {
    let exclusive = ["gate_logits", "gate_input", "a_log", "dt_bias", "key_mask", "theta"];
    let state = |name: &str| card.outputs.iter().any(|o| o.name == name);
    card.inputs
        .iter()
        .enumerate()
        // A state that a call cannot do without has to begin somewhere.
        .filter(|(_, i)| !state(i.name) || i.name.starts_with("weight"))
        .filter(|(_, i)| i.dtype == DType::F32 || i.dtype == DType::U8 && !i.optional)
        .filter(|(_, i)| !i.optional || (optional && !exclusive.contains(&i.name)))
        .map(|(n, i)| (i.name, fill(card, i.name, n as u64 + 1)))
        // Without persistent tokens there are only those of the text.
        .map(|(name, x)| match words(card, name).iter().position(|w| *w == "P+L") {
            Some(axis) if !optional => (name, x.narrow(axis, 0, LENGTH).contiguous()),
            _ => (name, x),
        })
        .collect()
}

#[test]
fn linear_variants_agree_with_their_oracles() {
    let mut failures = Vec::new();
    let filter = std::env::var("ATTN_TEST").unwrap_or_default();
    let filter = filter.trim_start_matches("linear/");
    let linear = CATALOG.iter().flat_map(|family| family.iter()).filter(|e| e.card().family == Family::Linear);
    for card in linear.map(Entry::card).filter(|card| card.name.contains(filter)) {
        for optional in [true, false] {
            let inputs = given(card, optional);
            let variant = variant::find(card.name).and_then(|e| e.make(&params(card, optional))).expect("a variant");
            let want = variant.oracle(&oracle_inputs(inputs.iter().map(|(n, t)| (*n, t))));
            let call = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
            for (name, runtime) in engines() {
                let outputs = match runtime.call_blocking(&*variant, &call) {
                    Ok(outputs) => outputs,
                    Err(error) => {
                        failures.push(format!("{} on {name}: {error}", card.name));
                        continue;
                    }
                };
                for (output, want) in &want {
                    let got = outputs.get(output).expect("an output");
                    if let Err(why) = close(&tensor_of(want), got, Budget::SCAN) {
                        failures.push(format!("{} on {name}: {output}: {why}", card.name));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_run_in_parts_equals_one_run() {
    let mut failures = Vec::new();
    let mut seen = 0;
    let filter = std::env::var("ATTN_TEST").unwrap_or_default();
    for entry in entries().filter(|e| e.card().name.contains(filter.trim_start_matches("linear/"))) {
        let card = entry.card();
        for optional in [true, false] {
            let given = given(card, optional);
            for (name, runtime) in engines() {
                let variant = variant::find(card.name).and_then(|e| e.make(&params(card, optional)));
                let variant = variant.expect("a variant");
                let run = |state: &mut State, end: usize| {
                    let mut call = Inputs::new();
                    // What a stream begins with is given once.
                    let held = |name: &str| state.parts().any(|(part, _)| part == name);
                    for (name, x) in given.iter().filter(|(name, _)| !held(name)) {
                        call.insert(name, part(card, name, x, state.position(), end));
                    }
                    let outputs = runtime
                        .step_blocking(&*variant, state, &call)
                        .unwrap_or_else(|e| panic!("{} on {name}: {e}", card.name));
                    assert_eq!(state.position(), end, "{}", card.name);
                    let read = |tensor| runtime.read_blocking(tensor).expect("an output");
                    outputs.iter().map(|(name, t)| (name.to_owned(), read(t))).collect::<BTreeMap<_, _>>()
                };
                let whole = run(&mut State::new(&*variant), LENGTH);
                for seed in [1, 4] {
                    let bounds = splits(seed);
                    let mut state = State::new(&*variant);
                    let ends = bounds.windows(2).filter(|pair| pair[0] < pair[1]).map(|pair| pair[1]);
                    let outs: Vec<_> = ends.map(|end| run(&mut state, end)).collect();
                    let given = |o: &&OutputSpec| !o.optional || whole.contains_key(o.name);
                    let kept = |o: &&OutputSpec| !WINDOWS.contains(&(card.name, o.name));
                    for o in card.outputs.iter().filter(given).filter(kept) {
                        let want = &whole[o.name];
                        let (mut first, axis) = (0, o.shape.split_whitespace().position(|w| ["L", "Lq"].contains(&w)));
                        for out in outs.iter().filter(|_| axis.is_some()).chain(outs.last().filter(|_| axis.is_none()))
                        {
                            let got = &out[o.name];
                            let want = axis
                                .map_or(want.clone(), |axis| want.narrow(axis, first, got.shape()[axis]).contiguous());
                            if let Err(why) = close(&want, got, Budget::SCAN) {
                                failures.push(format!("{} {} on {name} from {first}: {why}", card.name, o.name));
                            }
                            first += axis.map_or(0, |axis| got.shape()[axis]);
                        }
                    }
                }
                seen += 1;
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(seen > 0 || !filter.is_empty(), "no variant streams");
}

#[test]
fn a_stretch_with_its_past_equals_the_whole() {
    // The past comes with the call where there is no state: so many tokens before the first row, or whole segments.
    for (name, param, size, first, past) in
        [("windowed-least-squares", "window", 9, 20, 8), ("titans-mac", "segment", 16, 32, 0)]
    {
        let entry = variant::find(name).expect("a variant");
        let variant = entry.make(&[(param.to_owned(), Value::Int(size))]).expect("a variant");
        let given = given(entry.card(), true);
        for (engine, runtime) in engines() {
            let run = |first: usize| {
                let parts = given.iter().map(|(name, x)| (name, part(entry.card(), name, x, first, LENGTH)));
                let call = parts.fold(Inputs::new(), |all, (name, x)| all.with(name, x));
                let out = runtime.call_blocking(&*variant, &call).expect(name);
                out.get("out").expect("an output").clone()
            };
            let rows = |x: HostTensor, from: usize| x.narrow(2, from, LENGTH - first - past).contiguous();
            let (whole, late) = (rows(run(0), first + past), rows(run(first), past));
            close(&whole, &late, Budget::SCAN).unwrap_or_else(|why| panic!("{name} on {engine}: {why}"));
        }
    }
}

/// The committed state after 37 tokens is that after their four complete blocks of 8: the call after it begins with token 32.
#[test]
fn nats_l_goes_on_from_its_last_complete_block() {
    let card = variant::find("nats-l").expect("a variant").card();
    for decay in [true, false] {
        let params = [("block".to_owned(), Value::Int(8)), ("decay_softmax_blocks".to_owned(), Value::Bool(decay))];
        let variant = variant::find("nats-l").and_then(|e| e.make(&params)).expect("a variant");
        let tensors = given(card, false);
        for (name, runtime) in engines() {
            let run = |state: &mut State, end: usize| {
                let (mut call, begin) = (Inputs::new(), state.position());
                for (name, x) in &tensors {
                    let (first, end) = if *name == "is_softmax" { (begin / 8, end.div_ceil(8)) } else { (begin, end) };
                    call.insert(name, part(card, name, x, first, end));
                }
                runtime.step_blocking(&*variant, state, &call).unwrap_or_else(|e| panic!("{name}: {e}"))
            };
            let mut state = State::new(&*variant);
            let (whole, begun) = (run(&mut State::new(&*variant), LENGTH), run(&mut state, 37));
            assert_eq!(state.position(), 32, "the open block comes again");
            let rest = run(&mut state, LENGTH);
            let of = |out: &Outputs, output: &str| {
                runtime.read_blocking(out.get(output).expect("an output")).expect("its elements")
            };
            common::assert_close(name, &of(&whole, "state"), &of(&rest, "state"), Budget::SCAN);
            for output in ["linear", "softmax", "out"] {
                let before = of(&whole, output).narrow(2, 0, 37).contiguous();
                common::assert_close(name, &before, &of(&begun, output), Budget::SCAN);
            }
            let after = of(&whole, "linear").narrow(2, 32, LENGTH - 32).contiguous();
            common::assert_close(name, &after, &of(&rest, "linear"), Budget::SCAN);
        }
    }
}

/// titans-mal gives no state, so that no later stretch can go on from it; what can be cut is its end: tokens see none after them.
#[test]
fn titans_mal_sees_no_later_token() {
    let entry = variant::find("titans-mal").expect("a variant");
    let variant = entry.make(&[("window".to_owned(), Value::Int(9))]).expect("a variant");
    let given = given(entry.card(), true);
    for (name, runtime) in engines() {
        let run = |end: usize| {
            let call = given.iter().fold(Inputs::new(), |all, (input, x)| {
                // Rates cover the persistent tokens first.
                let sums = words(entry.card(), input).iter().position(|word| *word == "P+L");
                let x = sums.map_or_else(
                    || part(entry.card(), input, x, 0, end),
                    |axis| x.narrow(axis, 0, 10 + end).contiguous(),
                );
                all.with(input, x)
            });
            runtime.call_blocking(&*variant, &call).expect(name).get("out").expect("an output").clone()
        };
        let whole = run(LENGTH).narrow(2, 0, 23).contiguous();
        close(&whole, &run(23), Budget::SCAN).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}
