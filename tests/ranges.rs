//! Few rows over many keys: the plan cuts the keys in ranges, and the result is the one of a single pass, with every option.

mod common;

use common::{Budget, close, engines, random, tensor_of};
use wgpu_attention::case::oracle_inputs;
use wgpu_attention::variant;
use wgpu_attention::{HostTensor, Inputs, Runtime, Value, Variant};

struct Case {
    what: &'static str,
    variant: &'static str,
    params: &'static [(&'static str, &'static str)],
    /// B, H, Hk, Lq, Lk, D, Dv.
    sizes: [usize; 7],
    more: Vec<(&'static str, HostTensor)>,
}

impl Case {
    fn variant(&self) -> Box<dyn Variant> {
        let params: Vec<_> = self.params.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect();
        variant::find(self.variant).and_then(|entry| entry.make(&params)).expect("a variant")
    }

    fn tensors(&self, half: bool) -> Vec<(&'static str, HostTensor)> {
        let [b, h, hk, lq, lk, d, dv] = self.sizes;
        let qkv = [([b, h, lq, d], 1), ([b, hk, lk, d], 2), ([b, hk, lk, dv], 3)].map(|(shape, n)| random(&shape, n));
        let stored = ["q", "k", "v"].into_iter().zip(qkv.map(|t| if half { t.to_f16() } else { t }));
        stored.chain(self.more.iter().cloned()).collect()
    }
}

const STEP: [usize; 7] = [2, 4, 2, 1, 1101, 24, 20];
const CHUNK: [usize; 7] = [1, 4, 2, 67, 4111, 16, 24];

fn cases() -> Vec<Case> {
    let case = |what, params, sizes, more| Case { what, variant: "dense-attention", params, sizes, more };
    let ints = |list: &[i32]| HostTensor::new(&[list.len()], list.to_vec()).expect("a list");
    let far: Vec<i32> = (0..67).map(|n| n * 60).collect();
    vec![
        case("a step", &[], STEP, vec![]),
        case("a causal step", &[("pattern", "causal_cross")], STEP, vec![]),
        case("a step with sinks", &[], STEP, vec![("sink", random(&[4, 2], 4))]),
        case("a step with lengths", &[], STEP, vec![("lengths", ints(&[1000, 3]))]),
        case("a step with a bias", &[("softcap", "0.8")], STEP, vec![("bias", random(&[4, 1, 1101], 4))]),
        case("three rows", &[("pattern", "causal_cross")], [1, 2, 2, 3, 777, 8, 8], vec![]),
        case("a chunk", &[("pattern", "causal_cross")], CHUNK, vec![]),
        case("a chunk with a sink", &[("pattern", "causal_cross")], CHUNK, vec![("sink", random(&[4], 4))]),
        case("a chunk whose rows start late", &[], CHUNK, vec![("row_start", ints(&far))]),
        Case { variant: "alibi-attention", ..case("a chunk with slopes", &[], CHUNK, vec![]) },
    ]
}

#[test]
fn ranges_equal_one_pass() {
    let failures: Vec<_> = cases().iter().flat_map(|case| [(case, false), (case, true)]).flat_map(check).collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Small tiles of causal rows on a GPU. Tiles of 32 rows and of 64: 2170 of two packed heads and 3070 are shares of two and three ranges, 2113 and 3100
/// leave a rest by 32.
#[test]
fn ranges_of_causal_squares_equal_one_pass() {
    let square = |what, [heads, kv_heads, tokens]: [usize; 3]| Case {
        what,
        variant: "dense-attention",
        params: &[("pattern", "causal_cross")],
        sizes: [1, heads, kv_heads, tokens, tokens, 8, 4],
        more: vec![],
    };
    let cases = [
        square("two shares", [2, 1, 2170]),
        square("three shares", [1, 1, 3070]),
        square("two ranges", [2, 2, 2113]),
        square("three ranges", [1, 1, 3100]),
    ];
    let failures: Vec<_> = cases.iter().flat_map(|case| check((case, false))).collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// What differs from the oracle, on every engine that cuts the keys; the CPU engine leaves squares whole.
fn check((case, half): (&Case, bool)) -> Vec<String> {
    let mut failures = Vec::new();
    let (variant, tensors) = (case.variant(), case.tensors(half));
    let want = variant.oracle(&oracle_inputs(tensors.iter().map(|(n, t)| (*n, t))));
    let call = tensors.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
    let square = case.sizes[3] == case.sizes[4];
    for (engine, runtime) in engines() {
        let plan = runtime.plan(&*variant, &call).expect("a plan");
        let stages: Vec<_> = plan.stages.iter().map(|s| s.op.kernel().name()).collect();
        if stages != ["attend", "combine.merge"] && !(square && engine == "cpu") {
            failures.push(format!("{}, f16 {half}, {engine}: is not cut: {stages:?}", case.what));
        }
        let budget = match half {
            true if runtime.caps().matrix.is_some() => Budget::MATRIX,
            true => Budget::F16,
            false => Budget::F32,
        };
        let got = match runtime.call_blocking(&*variant, &call) {
            Ok(got) => got,
            Err(error) => {
                failures.push(format!("{}, f16 {half}, {engine}: {error}", case.what));
                continue;
            }
        };
        for (name, want) in &want {
            let found = got.get(name).map_err(|e| e.to_string());
            if let Err(why) = found.and_then(|got| close(&tensor_of(want), got, budget)) {
                failures.push(format!("{}, f16 {half}, {engine}: {name}: {why}", case.what));
            }
        }
    }
    failures
}

#[test]
fn what_fills_a_device_is_not_cut() {
    let case = |params, sizes| Case { what: "", variant: "dense-attention", params, sizes, more: vec![] };
    for (params, sizes) in [
        (&[][..], [1, 16, 16, 4096, 4096, 4, 4]),
        (&[][..], [64, 16, 16, 1, 4096, 4, 4]),
        (&[][..], [1, 2, 2, 1, 511, 4, 4]),
        (&[("window_left", "100")][..], [1, 2, 2, 1, 4096, 4, 4]),
    ] {
        let case = case(params, sizes);
        let tensors = case.tensors(false);
        let call = tensors.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
        let plan = Runtime::cpu().plan(&*case.variant(), &call).expect("a plan");
        assert_eq!(plan.stages.len(), 1, "{params:?} {sizes:?}");
    }
}
