//! The self-test of the delta rule by cooperative matrices: decay, weights, state before and after against the recurrence in f64.

use super::engine::GpuEngine;
use super::self_test::{Shape, shape};
use crate::error::Result;
use crate::kernel::Op;
use crate::kernel::key::ScalarType;
use crate::kernel::scan::{Decay, Pairs, ROW, Scan, rows};
use crate::plan::{Plan, Ref, Slot, SlotId, SlotRole, Stage};
use crate::tensor::{DType, HostTensor, Inputs, Layout};

/// The last chunk is not full.
const TOKENS: usize = 107;
const SCALE: f32 = 0.25;

impl GpuEngine {
    pub(super) async fn run_delta(&self, of: &Shape) -> Result<bool> {
        let number = |name: &str| of.iter().find(|(n, _)| *n == name).map_or(1, |(_, v)| *v as usize);
        let side = self.gpu.caps.matrix.unwrap_or(8) as usize;
        let problem = Problem::new(number("DEPTH_TILES") * side, number("COLUMNS") * 4);
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

/// One head over data from a fixed seed.
struct Problem {
    /// q, k, v, log decay, weight, state before.
    tensors: [HostTensor; 6],
    depth: usize,
    width: usize,
}

impl Problem {
    fn new(depth: usize, width: usize) -> Self {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut tensor = |shape: [usize; 4], by: f32, more: f32| HostTensor::from_fn(&shape, |_| by * next() + more);
        // Keys of about unit length that have much in common, so that the chunk's own pairs count.
        let size = (depth as f32).powf(-0.5);
        let tensors = [
            tensor([1, 1, TOKENS, depth], 1.0, 0.5).to_f16(),
            tensor([1, 1, TOKENS, depth], size, 0.7 * size).to_f16(),
            tensor([1, 1, TOKENS, width], 1.0, 0.0).to_f16(),
            tensor([1, 1, TOKENS, 1], 0.05, -0.05),
            tensor([1, 1, TOKENS, 1], 0.4, 0.6),
            tensor([1, 1, depth, width], 1.0, 0.0),
        ];
        Problem { tensors, depth, width }
    }

    const NAMES: [&'static str; 6] = ["q", "k", "v", "gates", "weights", "before"];

    fn inputs(&self) -> Inputs {
        Self::NAMES.iter().zip(&self.tensors).fold(Inputs::new(), |all, (name, x)| all.with(*name, x))
    }

    fn plan(&self) -> Plan {
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot = |name: &str, role, dtype, shape: &[usize]| {
            slots.push(Slot { name: name.into(), role, dtype, layout: Layout::contiguous(shape), check: None });
            Ref { slot: SlotId(slots.len() - 1), views: Vec::new(), dtype, shape: shape.to_vec() }
        };
        let given: Vec<Ref> = Self::NAMES
            .iter()
            .zip(&self.tensors)
            .map(|(name, x)| slot(name, SlotRole::Input, x.dtype(), x.shape()))
            .collect();
        let out = slot("out", SlotRole::Output, DType::F32, &[1, 1, TOKENS, self.width]);
        let state = slot("state", SlotRole::Output, DType::F32, &[1, 1, self.depth, self.width]);
        let pairs = slot("pairs", SlotRole::Transient, DType::F32, &[1, 1, rows(TOKENS), ROW]);
        let take = |n: usize| given[n].clone();
        let tables = || vec![("g_scalar", take(3), ScalarType::F32), ("w", take(4), ScalarType::F32)];
        let stage =
            |op, bindings| Stage { label: "self-test".into(), op, bindings, tables: tables(), hooks: Vec::new() };
        let scan = Scan { delta: true, decay: Decay::Scalar, half: true, ..Scan::new(SCALE) };
        let roles = [("q", 0), ("k", 1), ("v", 2), ("state_in", 5)].map(|(role, n)| (role, take(n)));
        let mut reads = roles.to_vec();
        reads.extend([("out", out), ("state", state), ("pairs", pairs.clone())]);
        let stages = vec![
            stage(
                Op::Pairs(Pairs { decay: true, scale: SCALE, half: true }),
                vec![("q", take(0)), ("k", take(1)), ("pairs", pairs)],
            ),
            stage(Op::Scan(scan), reads),
        ];
        Plan { variant: "self-test", slots, stages, notes: Vec::new() }
    }

    fn definition(&self) -> Vec<Vec<f64>> {
        let [q, k, v, gates, weights, before] = self.tensors.each_ref().map(HostTensor::to_f64);
        let (depth, width) = (self.depth, self.width);
        let (mut state, mut out) = (before, vec![0.0; TOKENS * width]);
        for t in 0..TOKENS {
            let (key, query) = (&k[t * depth..][..depth], &q[t * depth..][..depth]);
            state.iter_mut().for_each(|s| *s *= gates[t].exp());
            for e in 0..width {
                let held: f64 = (0..depth).map(|d| key[d] * state[d * width + e]).sum();
                let change = weights[t] * (v[t * width + e] - held);
                (0..depth).for_each(|d| state[d * width + e] += key[d] * change);
                out[t * width + e] =
                    (0..depth).map(|d| f64::from(SCALE) * query[d] * state[d * width + e]).sum::<f64>();
            }
        }
        vec![out, state]
    }
}
