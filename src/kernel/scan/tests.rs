use super::*;
use crate::caps::Target;
use crate::kernel::key::Place;
use crate::kernel::{Meta, TableMeta};
use crate::tensor::{HostData, HostTensor, Layout};
use half::f16;
use std::collections::BTreeMap;

/// Sizes of a test: batch, heads, queries, tokens, depth, width.
type Sizes = [usize; 6];

/// A scan with its inputs.
#[derive(Clone)]
struct Case {
    op: Scan,
    sizes: Sizes,
    inputs: BTreeMap<&'static str, HostTensor>,
}

/// Numbers that are the same every time, from -1 to 1.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((x >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }
}

fn filled(shape: &[usize], seed: u64, of: impl Fn(f32) -> f32) -> HostTensor {
    let mut next = noise(seed);
    HostTensor::from_fn(shape, |_| of(next()))
}

impl Case {
    fn new(op: Scan, sizes: Sizes) -> Self {
        let [batch, heads, queries, tokens, depth, width] = sizes;
        let inputs = BTreeMap::from([
            ("q", filled(&[batch, heads, queries, depth], 1, |x| x)),
            ("k", filled(&[batch, heads, tokens, depth], 2, |x| x)),
            ("v", filled(&[batch, heads, tokens, width], 3, |x| x)),
        ]);
        Case { op, sizes, inputs }
    }

    fn with(mut self, name: &'static str, x: HostTensor) -> Self {
        self.inputs.insert(name, x);
        self
    }

    /// With a log decay from `of`, for every token and head or every channel.
    fn decay(mut self, decay: Decay, of: impl Fn(f32) -> f32) -> Self {
        let [batch, heads, _, tokens, depth, _] = self.sizes;
        self.op.decay = decay;
        match decay {
            Decay::None => self,
            Decay::Scalar => self.with("g_scalar", filled(&[batch, heads, tokens, 1], 4, of)),
            Decay::Channel => self.with("g", filled(&[batch, heads, tokens, depth], 4, of)),
        }
    }

    /// With erase vectors that keep the recurrence stable.
    fn erase(self) -> Self {
        let [batch, heads, _, tokens, depth, _] = self.sizes;
        let shape = [batch, heads, tokens, depth];
        let size = (depth as f32).powf(-0.5);
        self.with("a", filled(&shape, 5, |x| x * size)).with("b", filled(&shape, 6, |x| -x * size))
    }

    /// With a state and z of before.
    fn state(self) -> Self {
        let [batch, heads, _, _, depth, width] = self.sizes;
        self.with("state_in", filled(&[batch, heads, depth, width], 7, |x| x))
            .with("z_in", filled(&[batch, heads, 1, depth], 8, |x| x + 1.5))
    }

    fn io(&self) -> Io {
        let [batch, heads, queries, _, depth, width] = self.sizes;
        let meta = |dtype, layout: Layout| Meta { dtype, layout };
        let outputs = [
            ("out", vec![batch, heads, queries, width]),
            ("state", vec![batch, heads, depth, width]),
            ("z", vec![batch, heads, depth]),
        ];
        let roles = self.op.roles().iter().filter_map(|role| {
            if let Some((_, shape)) = outputs.iter().find(|(name, _)| *name == role.name) {
                return Some((role.name, meta(DType::F32, Layout::contiguous(shape))));
            }
            let x = self.inputs.get(role.name)?;
            Some((role.name, meta(x.dtype(), x.layout().clone())))
        });
        let tables = TABLES.iter().filter_map(|(name, result)| {
            let x = self.inputs.get(name)?;
            let mut layout = x.layout().clone();
            for (stride, n) in layout.strides.iter_mut().zip(&layout.shape) {
                *stride *= usize::from(*n > 1);
            }
            Some(TableMeta {
                name: (*name).to_owned(),
                result: *result,
                place: Place::Side,
                meta: meta(x.dtype(), layout),
            })
        });
        Io { roles: roles.collect(), tables: tables.collect(), hooks: Vec::new() }
    }

    /// out, state and z of the twin.
    fn run(&self) -> [Vec<f32>; 3] {
        let io = self.io();
        let mut results: Vec<(&str, HostData)> =
            ["out", "state", "z"].map(|name| (name, HostData::F32(vec![f32::NAN; io.get(name).layout.len()]))).into();
        let reads = self.op.roles().iter().filter_map(|r| Some((r.name, self.inputs.get(r.name)?.data()))).collect();
        let tables = io.tables.iter().map(|t| self.inputs[t.name.as_str()].data()).collect();
        let writes = results.iter_mut().map(|(name, data)| (*name, data)).collect();
        self.op.twin(&mut TwinIo { io: &io, reads, writes, tables }).expect("the twin runs");
        let mut results = results.into_iter().map(|(_, data)| match data {
            HostData::F32(v) => v,
            _ => Vec::new(),
        });
        std::array::from_fn(|_| results.next().unwrap_or_default())
    }

    /// An element of an input, with heads shared; `or` where the input is absent.
    fn get(&self, name: &str, at: [usize; 4], or: f64) -> f64 {
        let Some(x) = self.inputs.get(name) else { return or };
        let share = |n: usize| at[1] / (self.sizes[1] / n);
        let axis = |axis: usize| match x.shape()[axis] {
            1 => 0,
            n if axis == 1 => share(n),
            _ => at[axis],
        };
        x.data().get(x.layout().at(&[axis(0), axis(1), axis(2), axis(3)]))
    }

    /// The definition with index loops in f64.
    fn naive(&self) -> [Vec<f64>; 3] {
        let [batch, heads, queries, tokens, depth, width] = self.sizes;
        let op = self.op;
        let (mut out, mut state, mut last_z) = (vec![0.0; batch * heads * queries * width], Vec::new(), Vec::new());
        for b in 0..batch {
            for h in 0..heads {
                let mut s: Vec<Vec<f64>> =
                    (0..depth).map(|d| (0..width).map(|e| self.get("state_in", [b, h, d, e], 0.0)).collect()).collect();
                let mut z: Vec<f64> = (0..depth).map(|d| self.get("z_in", [b, h, 0, d], 0.0)).collect();
                let q = |i, d| f64::from(op.scale) * self.get("q", [b, h, i, d], 0.0);
                let mut read = |i: usize, s: &[Vec<f64>], z: &[f64], bonus: &[Vec<f64>]| {
                    let by: f64 = (0..depth).map(|d| q(i, d) * z[d]).sum();
                    let by = match op.divide {
                        Divide::None => 1.0,
                        Divide::Sum(eps) => by + f64::from(eps),
                        Divide::AbsMax1 => by.abs().max(1.0),
                    };
                    for e in 0..width {
                        let n: f64 =
                            (0..depth).map(|d| q(i, d) * (s[d][e] + bonus.get(d).map_or(0.0, |row| row[e]))).sum();
                        out[((b * heads + h) * queries + i) * width + e] = if by == 0.0 { 0.0 } else { n / by };
                    }
                };
                for t in 0..tokens {
                    let before = s.clone();
                    if self.get("keep", [b, h, t, 0], 1.0) != 0.0 {
                        let at = |name, d, or| self.get(name, [b, h, t, d], or);
                        let w = at("w", 0, 1.0);
                        for d in 0..depth {
                            let decay = (at("g", d, 0.0) + at("g_scalar", 0, 0.0)).exp();
                            z[d] = decay * z[d] + w * at("k", d, 0.0);
                            for e in 0..width {
                                let erased: f64 = (0..depth).map(|c| at("a", c, 0.0) * before[c][e]).sum();
                                s[d][e] = decay * before[d][e]
                                    + at("b", d, 0.0) * erased
                                    + w * at("k", d, 0.0) * at("v", e, 0.0);
                            }
                        }
                        if op.read_before {
                            let term = |d, e| self.get("u", [0, h, 0, d], 0.0) * w * at("k", d, 0.0) * at("v", e, 0.0);
                            let bonus: Vec<Vec<f64>> =
                                (0..depth).map(|d| (0..width).map(|e| term(d, e)).collect()).collect();
                            read(t, &before, &z, &bonus);
                        }
                    } else if op.read_before {
                        read(t, &before, &z, &[]);
                    }
                    if !op.read_before && !op.bidirectional {
                        read(t, &s, &z, &[]);
                    }
                }
                if op.bidirectional {
                    (0..queries).for_each(|i| read(i, &s, &z, &[]));
                }
                state.extend(s.into_iter().flatten());
                last_z.extend(z);
            }
        }
        [out, state, last_z]
    }

    fn check(&self, name: &str) {
        for ((what, got), want) in ["out", "state", "z"].into_iter().zip(self.run()).zip(self.naive()) {
            assert_close(&format!("{name} {what}"), &got, &want);
        }
    }
}

/// Largest difference over the largest value.
fn assert_close(name: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    let top = want.iter().fold(1e-30, |top: f64, x| top.max(x.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
    let nan = got.iter().any(|x| x.is_nan());
    assert!(!nan && worst <= 4e-6 * top, "{name}: {:.2e} of the largest", worst / top);
}

const ODD: Sizes = [2, 3, 65, 65, 20, 7];

type Named = (&'static str, fn(f32) -> f32);

fn decays() -> Vec<Named> {
    vec![
        ("slow", |x| -1e-3 * (x + 1.0)),
        ("gates", |x| -(x + 1.0)),
        ("none", |_| 0.0),
        ("all", |_| -200.0),
        ("some", |x| if x > 0.7 { -200.0 } else { -0.1 * (x + 1.0) }),
    ]
}

#[test]
fn every_decay_is_the_recurrence() {
    Case::new(Scan::new(0.5), ODD).state().check("undecayed");
    for decay in [Decay::Scalar, Decay::Channel] {
        for (name, of) in decays() {
            Case::new(Scan::new(1.0), ODD).decay(decay, of).state().check(&format!("{decay:?} {name}"));
        }
    }
}

#[test]
fn reads_before_the_write() {
    let op = Scan { read_before: true, ..Scan::new(1.0) };
    let bonus = filled(&[1, 3, 1, 20], 9, |x| x);
    for decay in [Decay::None, Decay::Scalar, Decay::Channel] {
        let case = Case::new(op, ODD).decay(decay, |x| -0.2 * (x + 1.0)).state();
        case.check(&format!("{decay:?} without bonus"));
        case.with("u", bonus.clone()).check(&format!("{decay:?} with bonus"));
    }
}

#[test]
fn erase_reads_the_state_before_decay() {
    for decay in [Decay::None, Decay::Scalar, Decay::Channel] {
        let case = Case::new(Scan::new(1.0), ODD).decay(decay, |x| -0.2 * (x + 1.0)).erase().state();
        case.check(&format!("{decay:?} after"));
        let op = Scan { read_before: true, decay: case.op.decay, ..Scan::new(1.0) };
        Case { op, ..case }.with("u", filled(&[1, 3, 1, 20], 9, |x| x)).check(&format!("{decay:?} before"));
    }
}

#[test]
fn divisors_divide() {
    let positive = |sizes: Sizes| {
        let case = Case::new(Scan::new(1.0), sizes).state();
        case.with("q", filled(&[2, 3, 65, 20], 1, |x| x + 1.0)).with("k", filled(&[2, 3, 65, 20], 2, |x| x + 1.0))
    };
    for divide in [Divide::Sum(1e-6), Divide::AbsMax1] {
        for decay in [Decay::None, Decay::Scalar, Decay::Channel] {
            for read_before in [false, true] {
                let mut case = positive(ODD).decay(decay, |x| -0.2 * (x + 1.0));
                case.op = Scan { divide, read_before, ..case.op };
                case.check(&format!("{divide:?} {decay:?} before={read_before}"));
            }
        }
    }
}

#[test]
fn write_weights_and_masked_keys() {
    let mut keep = noise(11);
    let flags: Vec<u8> = (0..2 * 65).map(|_| u8::from(keep() > -0.3)).collect();
    let keep = HostTensor::new(&[2, 1, 65, 1], flags.clone()).expect("flags");
    for decay in [Decay::None, Decay::Scalar, Decay::Channel] {
        let mut case = Case::new(Scan::new(1.0), ODD)
            .decay(decay, |x| -0.2 * (x + 1.0))
            .with("w", filled(&[2, 3, 65, 1], 10, |x| x + 1.0))
            .with("keep", keep.clone());
        case.check(&format!("{decay:?}"));
        case.clone().erase().check(&format!("{decay:?} erase"));
        // What a masked key holds does not matter.
        let poisoned = |x: &HostTensor, width: usize| {
            let values = x.to_f32().into_iter().enumerate();
            let masked = |n: usize| flags[n / (3 * 65 * width) * 65 + n / width % 65] == 0;
            HostTensor::new(x.shape(), values.map(|(n, x)| if masked(n) { f32::NAN } else { x }).collect::<Vec<_>>())
                .expect("values")
        };
        let want = case.run();
        for (name, width) in [("k", 20), ("v", 7)] {
            let dirty = poisoned(&case.inputs[name], width);
            case.inputs.insert(name, dirty);
        }
        assert_eq!(case.run(), want, "{decay:?}");
    }
}

#[test]
fn bidirectional_reads_the_last_state() {
    for divide in [Divide::None, Divide::Sum(0.0)] {
        let op = Scan { bidirectional: true, divide, ..Scan::new(1.0) };
        let case = Case::new(op, [1, 2, 7, 63, 16, 9]).state();
        case.with("q", filled(&[1, 2, 7, 16], 1, |x| x + 1.1))
            .with("k", filled(&[1, 2, 63, 16], 2, |x| x + 1.1))
            .check("cross");
    }
    let op = Scan { bidirectional: true, ..Scan::new(1.0) };
    Case::new(op, [1, 2, 40, 3, 5, 4]).decay(Decay::Scalar, |x| -0.2 * (x + 1.0)).erase().check("erase");
}

#[test]
fn no_key_gives_zero() {
    let keep = HostTensor::new(&[1, 1, 5, 1], vec![0u8; 5]).expect("flags");
    let op = Scan { divide: Divide::Sum(0.0), ..Scan::new(1.0) };
    let [out, state, z] = Case::new(op, [1, 1, 5, 5, 4, 4]).with("keep", keep).run();
    assert!(out.iter().chain(&state).chain(&z).all(|&x| x == 0.0));
}

#[test]
fn heads_are_shared() {
    let case = Case::new(Scan::new(1.0), [1, 6, 33, 33, 8, 8]);
    let case = case.with("q", filled(&[1, 2, 33, 8], 1, |x| x)).with("v", filled(&[1, 3, 33, 8], 3, |x| x));
    case.check("shared");
    case.decay(Decay::Scalar, |x| -0.2 * (x + 1.0)).erase().check("shared erase");
}

#[test]
fn half_inputs() {
    let mut case = Case::new(Scan::new(1.0), ODD).decay(Decay::Scalar, |x| -0.2 * (x + 1.0));
    for name in ["q", "k", "v"] {
        let half: Vec<f16> = case.inputs[name].to_f32().into_iter().map(f16::from_f32).collect();
        let x = HostTensor::new(case.inputs[name].shape(), half).expect("as many");
        case.inputs.insert(name, x);
    }
    case.check("f16");
}

#[test]
fn split_run_is_the_whole_run() {
    for decay in [Decay::None, Decay::Scalar, Decay::Channel] {
        let op = Scan { divide: Divide::AbsMax1, ..Scan::new(1.0) };
        let whole = Case::new(op, [2, 2, 65, 65, 12, 8]).decay(decay, |x| -0.2 * (x + 1.0));
        let [out, state, z] = whole.run();
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); 4];
        let (mut s, mut last_z) = (HostTensor::zeros(&[2, 2, 12, 8]), HostTensor::zeros(&[2, 2, 1, 12]));
        let mut first = 0;
        for count in [1, 1, 40, 23] {
            let mut part = whole.clone().with("state_in", s).with("z_in", last_z);
            part.sizes = [2, 2, count, count, 12, 8];
            for name in ["q", "k", "v", "g", "g_scalar"] {
                if let Some(x) = part.inputs.get_mut(name) {
                    *x = x.narrow(2, first, count).contiguous();
                }
            }
            let [out, state, z] = part.run();
            parts.iter_mut().zip(out.chunks(count * 8)).for_each(|(all, part)| all.extend(part));
            s = HostTensor::new(&[2, 2, 12, 8], state).expect("a state");
            last_z = HostTensor::new(&[2, 2, 1, 12], z).expect("a z");
            first += count;
        }
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        assert_close("out", &parts.concat(), &wide(&out));
        assert_close("state", &s.to_f32(), &wide(&state));
        assert_close("z", &last_z.to_f32(), &wide(&z));
    }
}

#[test]
fn launches_choose_a_form() {
    let caps = Caps::portable(Target::Native);
    let entry = |case: &Case| case.op.launch(&case.io(), &caps).map(|l| l.key.entry);
    let case = |tokens, depth| Case::new(Scan::new(1.0), [1, 2, tokens, tokens, depth, 8]);
    assert_eq!(entry(&case(64, 64)).expect("a launch"), "scan/chunk");
    assert_eq!(entry(&case(1, 64)).expect("a launch"), "scan/recurrent");
    assert_eq!(entry(&case(64, 64).erase()).expect("a launch"), "scan/recurrent");
    assert_eq!(entry(&case(64, 1057)).expect("a launch"), "scan/recurrent");
    let error = entry(&case(64, 4161)).expect_err("too deep");
    assert_eq!(error.kind(), crate::ErrorKind::Limit);
    let error = entry(&case(64, 64).erase().state().decay(Decay::Channel, |x| x)).expect_err("too many bindings");
    assert_eq!(error.kind(), crate::ErrorKind::Limit);
}

#[test]
fn lengths_do_not_enter_the_key() {
    let caps = Caps::portable(Target::Native);
    let key = |batch, heads, tokens| {
        let case = Case::new(Scan::new(1.0), [batch, heads, tokens, tokens, 64, 64]);
        case.op.launch(&case.io(), &caps).expect("a launch").key
    };
    assert_eq!(key(1, 1, 16), key(3, 8, 4096));
    assert_eq!(key(1, 1, 1), key(3, 8, 5));
}
