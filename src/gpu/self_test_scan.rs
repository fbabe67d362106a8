//! The self-test of the scan by cooperative matrices: segments, decay, state and z against the recurrence in f64.

use super::engine::GpuEngine;
use super::self_test::{Shape, shape};
use crate::error::Result;
use crate::kernel::Op;
use crate::kernel::key::ScalarType;
use crate::kernel::scan::{Carry, Decay, Divide, Pass, Scan};
use crate::plan::{Plan, Ref, Slot, SlotId, SlotRole, Stage};
use crate::tensor::{DType, HostTensor, Inputs, Layout};

/// Tokens of a segment.
const SEGMENT: usize = 64;
/// The last segment and its last chunk are not full.
const TOKENS: usize = 2 * SEGMENT + 43;

impl GpuEngine {
    pub(super) async fn run_scan(&self, of: &Shape) -> Result<bool> {
        let number = |name: &str| of.iter().find(|(n, _)| *n == name).map_or(1, |(_, v)| *v as usize);
        let side = self.gpu.caps.matrix.unwrap_or(8) as usize;
        let problem = Problem::new(number("DEPTH_TILES") * side, number("COLUMNS") * 4, number("DIVIDE") > 0);
        let plan = problem.plan();
        let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        let mut tested = false;
        for n in 0..plan.stages.len() {
            let launch = self.launch(plan.stages[n].op.kernel(), &plan.io(n, &layouts))?;
            tested |= shape(&launch.key) == *of;
            self.pipelines.prepare(&self.gpu, &launch.key).await?;
        }
        if !tested {
            return Ok(false);
        }
        let outputs = self.run(&plan, &self.scratch(&plan)?, &problem.inputs())?;
        let mut right = true;
        for ((_, got), want) in outputs.iter().zip(problem.definition()) {
            let got = self.read(got).await?.to_f64();
            let largest = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            right &= want.iter().zip(&got).all(|(w, g)| (w - g).abs() <= 3e-3 * largest);
        }
        Ok(right)
    }
}

/// One head with a scalar decay, over data from a fixed seed.
struct Problem {
    q: HostTensor,
    k: HostTensor,
    v: HostTensor,
    gates: HostTensor,
    z: bool,
    divide: bool,
}

impl Problem {
    fn new(depth: usize, width: usize, divide: bool) -> Self {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut tensor = |width: usize, more: f32| HostTensor::from_fn(&[1, 1, TOKENS, width], |_| next() + more);
        // Positive pairs, so that a divisor is no small difference.
        let (q, k, v) = (tensor(depth, 1.25).to_f16(), tensor(depth, 1.25).to_f16(), tensor(width, 0.0).to_f16());
        let gates: Vec<f32> = tensor(1, -1.0).to_f32().iter().map(|g| 0.1 * g).collect();
        let gates = HostTensor::new(&[1, 1, TOKENS, 1], gates)
            .unwrap_or_else(|_| HostTensor::from_fn(&[1, 1, TOKENS, 1], |_| 0.0));
        Problem { q, k, v, gates, z: divide, divide }
    }

    fn inputs(&self) -> Inputs {
        Inputs::new().with("q", &self.q).with("k", &self.k).with("v", &self.v).with("gates", &self.gates)
    }

    fn plan(&self) -> Plan {
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot = |name: &str, role, dtype, shape: &[usize]| {
            slots.push(Slot { name: name.into(), role, dtype, layout: Layout::contiguous(shape), check: None });
            Ref { slot: SlotId(slots.len() - 1), views: Vec::new(), dtype, shape: shape.to_vec() }
        };
        let input = SlotRole::Input;
        let (depth, width) = (self.q.shape()[3], self.v.shape()[3]);
        let q = slot("q", input.clone(), DType::F16, self.q.shape());
        let k = slot("k", input.clone(), DType::F16, self.k.shape());
        let v = slot("v", input.clone(), DType::F16, self.v.shape());
        let gates = slot("gates", input, DType::F32, self.gates.shape());
        let out = slot("out", SlotRole::Output, DType::F32, &[1, 1, TOKENS, width]);
        let state = slot("state", SlotRole::Output, DType::F32, &[1, 1, depth, width]);
        let z = self.z.then(|| slot("z", SlotRole::Output, DType::F32, &[1, 1, depth]));
        let parts = TOKENS.div_ceil(SEGMENT);
        let sums = slot("sums", SlotRole::Transient, DType::F32, &[1, parts, depth, width]);
        let z_sums = self.z.then(|| slot("z_sums", SlotRole::Transient, DType::F32, &[1, parts, depth]));
        let total = slot("total", SlotRole::Transient, DType::F32, &[1, parts, 1]);
        let scan = |pass, divide| Scan { decay: Decay::Scalar, pass, divide, ..Scan::new(0.25) };
        let bind = |mut list: Vec<(&'static str, Ref)>, z: &Option<Ref>| {
            list.extend(z.clone().map(|z| ("z", z)));
            list
        };
        let decay = || ("g_scalar", gates.clone(), ScalarType::F32);
        let mut reads = vec![decay()];
        reads.extend(z_sums.clone().map(|z| ("z_in", z.insert(2), ScalarType::F32)));
        let divide = if self.divide { Divide::Sum(0.0) } else { Divide::None };
        let stages = [
            (
                Op::Scan(scan(Pass::Sums(SEGMENT), Divide::None)),
                bind(
                    vec![("k", k.clone()), ("v", v.clone()), ("state", sums.clone()), ("total", total.clone())],
                    &z_sums,
                ),
                vec![decay()],
            ),
            (
                Op::Carry(Carry { segments: parts }),
                bind(vec![("state", sums.clone()), ("total", total)], &z_sums),
                vec![],
            ),
            (
                Op::Scan(scan(Pass::Reads(SEGMENT), divide)),
                bind(vec![("q", q), ("k", k), ("v", v), ("state_in", sums), ("out", out), ("state", state)], &z),
                reads,
            ),
        ];
        let stage =
            |(op, bindings, tables)| Stage { label: "self-test".into(), op, bindings, tables, hooks: Vec::new() };
        let stages = stages.into_iter().map(stage).collect();
        Plan { variant: "self-test", slots, stages, notes: Vec::new() }
    }

    fn definition(&self) -> Vec<Vec<f64>> {
        let [q, k, v, gates] = [&self.q, &self.k, &self.v, &self.gates].map(HostTensor::to_f64);
        let (depth, width) = (self.q.shape()[3], self.v.shape()[3]);
        let (mut state, mut z, mut out) = (vec![0.0; depth * width], vec![0.0; depth], vec![0.0; TOKENS * width]);
        for t in 0..TOKENS {
            let decay = gates[t].exp();
            for d in 0..depth {
                z[d] = decay * z[d] + k[t * depth + d];
                for e in 0..width {
                    state[d * width + e] = decay * state[d * width + e] + k[t * depth + d] * v[t * width + e];
                }
            }
            let q = &q[t * depth..][..depth];
            let by: f64 = if self.divide { q.iter().zip(&z).map(|(q, z)| 0.25 * q * z).sum() } else { 1.0 };
            for (e, out) in out[t * width..][..width].iter_mut().enumerate() {
                *out = q.iter().enumerate().map(|(d, q)| 0.25 * q * state[d * width + e]).sum::<f64>() / by;
            }
        }
        let mut all = vec![out, state];
        all.extend(self.z.then_some(z));
        all
    }
}
