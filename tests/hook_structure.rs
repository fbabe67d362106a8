//! Masks given as code become structure: bounds or block maps, with the same results as asking every pair, on every engine.

mod common;

use common::{Budget, assert_close, engines, random};
use wgpu_attention::cpu::CpuEngine;
use wgpu_attention::hook::Structure;
use wgpu_attention::kernel::Op;
use wgpu_attention::kernel::attend::{Attend, Keys};
use wgpu_attention::plan::Plan;
use wgpu_attention::variants::dense::DenseAttention;
use wgpu_attention::{Along, Hooked, HostTensor, Inputs, Problem, Result, Runtime, Spec, UserHook};

fn ints(shape: &[usize], f: impl Fn(usize) -> i32) -> HostTensor {
    HostTensor::new(shape, (0..shape.iter().product()).map(f).collect::<Vec<i32>>()).expect("as many as the shape says")
}

/// Documents of uneven length.
fn documents(length: usize) -> HostTensor {
    ints(&[length], |n| (n as i32 * 7 + n as i32 / 3) / 470)
}

type Rule = Box<dyn Fn([usize; 2], i32, i32) -> bool>;

/// A mask, what it says of (batch, head), query position and key, and the structure it is found to have; `None` for bounds of the stage.
struct Case {
    name: &'static str,
    hook: Result<UserHook>,
    rule: Rule,
    structure: Option<Structure>,
    maps: usize,
}

const QUERIES: usize = 300;
const KEYS: usize = 430;

fn cases() -> Vec<Case> {
    let case = |name, hook, rule: Rule, structure, maps| Case { name, hook, rule, structure, maps };
    let doc = |n: i32| (n * 7 + n / 3) / 470;
    let shift = (KEYS - QUERIES) as i32;
    let docs = documents(KEYS);
    let query_docs = ints(&[QUERIES], |i| doc(i as i32 + shift));
    let both = |text: &str| {
        UserHook::mask(text)?.with("doc_q", (&query_docs, Along::Queries))?.with("doc_k", (&docs, Along::Keys))
    };
    let by_batch = ints(&[2, KEYS], |n| ((n % KEYS) as i32 + 200 * (n / KEYS) as i32) / 111);
    vec![
        case(
            "window",
            UserHook::mask(
                "fn mask(at: At, size: i32) -> bool { return at.key <= at.query && at.query - at.key < size; }",
            )
            .and_then(|h| h.with("size", 70)),
            Box::new(|_, q, k| k <= q && q - k < 70),
            None,
            0,
        ),
        case(
            "window of both sides, with branches",
            UserHook::mask(
                "fn near(d: i32) -> bool { if (d < 0) { return -d <= 9; } return d < 65; }\nfn mask(at: At) -> bool { return near(at.query - at.key); }",
            ),
            Box::new(|_, q, k| q - k >= -9 && q - k < 65),
            None,
            0,
        ),
        case(
            "strictly before",
            UserHook::mask("fn mask(at: At) -> bool { return at.key + 3 < at.query; }"),
            Box::new(|_, q, k| k + 3 < q),
            Some(Structure::Distance),
            1,
        ),
        case(
            "dilated",
            UserHook::mask("fn mask(at: At) -> bool { let d = at.query - at.key; return d >= 0 && d % 200 < 5; }"),
            Box::new(|_, q, k| q >= k && (q - k) % 200 < 5),
            Some(Structure::Distance),
            1,
        ),
        case(
            "window by head",
            UserHook::mask("fn mask(at: At, size: i32) -> bool { return abs(at.query - at.key) < size; }")
                .and_then(|h| h.with("size", (&ints(&[4], |h| 20 * h as i32 + 20), Along::Heads))),
            Box::new(|[_, h], q, k| (q - k).abs() < 20 * h as i32 + 20),
            Some(Structure::Distance),
            4,
        ),
        case(
            "documents",
            both("fn mask(at: At, doc_q: i32, doc_k: i32) -> bool { return doc_q == doc_k; }"),
            Box::new(move |_, q, k| doc(q) == doc(k)),
            None,
            0,
        ),
        case(
            "documents that come back",
            UserHook::mask("fn mask(at: At, doc_q: i32, doc_k: i32) -> bool { return doc_q == doc_k; }")
                .and_then(|h| h.with("doc_q", (&ints(&[QUERIES], |i| (i as i32 + shift) / 90 % 3), Along::Queries)))
                .and_then(|h| h.with("doc_k", (&ints(&[KEYS], |j| j as i32 / 90 % 3), Along::Keys))),
            Box::new(|_, q, k| q / 90 % 3 == k / 90 % 3),
            Some(Structure::Segments),
            1,
        ),
        case(
            "one segment of each batch",
            UserHook::mask("fn mask(at: At, part: i32) -> bool { return part == 2; }")
                .and_then(|h| h.with("part", (&by_batch, Along::Keys))),
            Box::new(|[b, _], _, k| (k + 200 * b as i32) / 111 == 2),
            None,
            0,
        ),
        case(
            "causal documents",
            both("fn mask(at: At, doc_q: i32, doc_k: i32) -> bool { return doc_q == doc_k && at.key <= at.query; }"),
            Box::new(move |_, q, k| doc(q) == doc(k) && k <= q),
            Some(Structure::Pairs),
            1,
        ),
        case(
            "segments of each batch",
            UserHook::mask("fn mask(at: At, part: i32) -> bool { return part != 2; }")
                .and_then(|h| h.with("part", (&by_batch, Along::Keys))),
            Box::new(|[b, _], _, k| (k + 200 * b as i32) / 111 != 2),
            Some(Structure::Segments),
            2,
        ),
        case(
            "by place of the key and head",
            UserHook::mask("fn mask(at: At) -> bool { return at.key / 64 % 2 == i32(at.head % 2u) || at.key == 5; }"),
            Box::new(|[_, h], _, k| k / 64 % 2 == (h % 2) as i32 || k == 5),
            Some(Structure::Pairs),
            4,
        ),
        case(
            "loop",
            UserHook::mask(
                "fn mask(at: At) -> bool { var d = at.query - at.key; if (d < 0) { return false; } while (d > 0 && d % 2 == 0) { d /= 2; } return d < 2; }",
            ),
            Box::new(|_, q, k| q >= k && ((q - k) & (q - k - 1)) == 0),
            Some(Structure::Distance),
            1,
        ),
        case(
            "nothing",
            UserHook::mask("fn mask(at: At) -> bool { return at.query - at.key > 9000; }"),
            Box::new(|_, _, _| false),
            Some(Structure::Distance),
            1,
        ),
    ]
}

fn inputs() -> (HostTensor, HostTensor, HostTensor) {
    (random(&[2, 4, QUERIES, 12], 1), random(&[2, 2, KEYS, 12], 2), random(&[2, 2, KEYS, 8], 3))
}

fn plan(variant: &Hooked<DenseAttention>, inputs: &Inputs) -> Plan {
    Runtime::cpu().plan(variant, inputs).expect("a plan")
}

fn attend(plan: &Plan) -> (&Attend, usize) {
    let stage = plan.stages.last().expect("a stage");
    match &stage.op {
        Op::Attend(op) => (op, stage.hooks.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn structure_is_derived_and_changes_no_result() {
    let (q, k, v) = inputs();
    let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &v);
    let shift = (KEYS - QUERIES) as i32;
    let mut notes = String::new();
    for case in cases() {
        let hook = case.hook.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let variant = Hooked::new(DenseAttention::default()).hook(hook);
        let plan = plan(&variant, &inputs);
        notes += &format!("{}: {}\n", case.name, plan.notes.join("; "));
        let (op, hooks) = attend(&plan);
        let found = plan.stages.iter().find_map(|s| match &s.op {
            Op::BlockMap(op) => Some(op.structure),
            _ => None,
        });
        assert_eq!(found, case.structure, "{}", case.name);
        assert_eq!((op.keys == Keys::Range, hooks), (found.is_none(), usize::from(found.is_some())), "{}", case.name);

        // Every tile of the map is what its pairs are.
        for (_, map) in CpuEngine.block_maps(&plan, &inputs).expect("maps") {
            let map = map.expect("all is known");
            let [b, h, lines, columns] = map.shape()[..] else { panic!("rank") };
            assert_eq!(b * h, case.maps, "{}", case.name);
            let values = map.to_i32();
            for n in 0..values.len() {
                let (line, column, head, batch) =
                    (n / columns % lines, n % columns, n / (columns * lines) % h, n / (columns * lines * h));
                let rows = line * 128..(line * 128 + 128).min(QUERIES);
                let pairs = rows.flat_map(|i| (column * 64..(column * 64 + 64).min(KEYS)).map(move |j| (i, j)));
                let allowed: Vec<bool> =
                    pairs.map(|(i, j)| (case.rule)([batch, head], i as i32 + shift, j as i32)).collect();
                let want = match (allowed.contains(&true), allowed.contains(&false)) {
                    (false, _) => 0,
                    (true, true) => 1,
                    (true, false) => 2,
                };
                assert_eq!(values[n], want, "{}: batch {batch} head {head} tile {line} {column}", case.name);
            }
        }

        let given: Vec<u8> = (0..2 * 4 * QUERIES * KEYS)
            .map(|n| {
                let (j, i, h, b) = (n % KEYS, n / KEYS % QUERIES, n / (KEYS * QUERIES) % 4, n / (KEYS * QUERIES * 4));
                u8::from((case.rule)([b, h], i as i32 + shift, j as i32))
            })
            .collect();
        let given = HostTensor::new(&[2, 4, QUERIES, KEYS], given).expect("a mask");
        let masked = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("mask", &given);
        let want = Runtime::cpu().call_blocking(&DenseAttention::default(), &masked).expect("a result");
        for (engine, runtime) in engines() {
            for (how, variant) in [("", variant.clone()), (" without structure", variant.clone().without_structure())] {
                let outputs = runtime.call_blocking(&variant, &inputs).unwrap_or_else(|e| panic!("{engine}: {e}"));
                for output in ["out", "lse"] {
                    let name = format!("{}{how} {engine} {output}", case.name);
                    assert_close(
                        &name,
                        want.get(output).expect(output),
                        outputs.get(output).expect(output),
                        Budget::F32,
                    );
                }
            }
        }
    }
    insta::assert_snapshot!("structure_notes", notes);
}

#[test]
fn maps_follow_lengths_and_other_masks() {
    let (q, k, v) = inputs();
    let lengths = ints(&[2], |b| [430, 217][b]);
    let given = HostTensor::new(&[KEYS], (0..KEYS).map(|j| u8::from(j % 64 > 2)).collect::<Vec<u8>>()).expect("a mask");
    let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("lengths", &lengths).with("mask", &given);
    let text = "fn mask(at: At) -> bool { let d = at.query - at.key; return d >= 0 && d / 50 % 2 == 0; }";
    let variant = Hooked::new(DenseAttention { softcap: Some(3.0), ..Default::default() })
        .hook(UserHook::mask(text).expect("a hook"));
    let want = Runtime::cpu().call_blocking(&variant.clone().without_structure(), &inputs).expect("a result");
    assert!(plan(&variant, &inputs).stages.iter().any(|s| matches!(s.op, Op::BlockMap(_))));
    for (engine, runtime) in engines() {
        let outputs = runtime.call_blocking(&variant, &inputs).unwrap_or_else(|e| panic!("{engine}: {e}"));
        assert_close(engine, want.get("out").expect("out"), outputs.get("out").expect("out"), Budget::F32);
    }
}

#[test]
fn a_declared_structure_is_taken_and_maps_are_left_out_where_they_do_not_help() {
    let text = "fn mask(at: At) -> bool { return (u32(at.query - at.key) & 64u) == 0u; }";
    let hook = UserHook::mask(text).expect("a hook");
    let make = |hook: UserHook, lq: usize| {
        let variant = Hooked::new(DenseAttention::default()).hook(hook);
        let spec = |l: usize| Spec { dtype: wgpu_attention::DType::F32, shape: vec![1, 1, l, 8] };
        let problem = Problem::new(&variant, [("q", spec(lq)), ("k", spec(600)), ("v", spec(600))]).expect("a problem");
        wgpu_attention::runtime::plan(&variant, &problem).expect("a plan")
    };
    let structures = |plan: &Plan| {
        plan.stages
            .iter()
            .filter_map(|s| if let Op::BlockMap(op) = &s.op { Some(op.structure) } else { None })
            .collect::<Vec<_>>()
    };
    let found = structures(&make(hook.clone(), 600));
    assert_eq!(found, [Structure::Distance]);
    assert_eq!(structures(&make(hook.clone().declare(Structure::Pairs), 600)), [Structure::Pairs]);
    let decode = make(hook, 1);
    assert!(structures(&decode).is_empty());
    assert!(decode.notes.iter().any(|note| note.contains("too few")), "{:?}", decode.notes);
}

#[test]
fn maps_of_wide_half_rows_have_tall_tiles() {
    let half = |heads: usize, d: usize, seed: u64| random(&[1, heads, 300, d], seed).to_f16();
    let docs = documents(300);
    let text = "fn mask(at: At, doc_q: i32, doc_k: i32) -> bool { return doc_q == doc_k; }";
    let hook = UserHook::mask(text)
        .and_then(|h| h.with("doc_q", ("docs", Along::Queries)))
        .and_then(|h| h.with("doc_k", ("docs", Along::Keys)))
        .expect("a hook");
    let variant = Hooked::new(DenseAttention::default()).hook(hook);
    // Two heads of a group fill a tile together.
    for (heads, kv_heads, d, rows) in [(2, 2, 72, 256), (2, 2, 64, 128), (2, 1, 72, 128)] {
        let (q, k, v) = (half(heads, d, 1), half(kv_heads, d, 2), half(kv_heads, d, 3));
        let inputs = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("docs", &docs);
        let plan = plan(&variant, &inputs);
        assert_eq!(
            attend(&plan).0.keys,
            Keys::Blocks { queries: rows, keys: 64 },
            "{heads} heads on {kv_heads} of {d}"
        );
        let want = Runtime::cpu().call_blocking(&variant.clone().without_structure(), &inputs).expect("a result");
        for (engine, runtime) in engines() {
            let outputs = runtime.call_blocking(&variant, &inputs).unwrap_or_else(|e| panic!("{engine}: {e}"));
            assert_close(engine, want.get("out").expect("out"), outputs.get("out").expect("out"), Budget::F16);
        }
    }
}
