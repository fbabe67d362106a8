//! The self-test of cooperative matrices: each shape of the kernel runs once on the device against f64 before it may be used.
//!
//! Nothing checks these kernels before the driver: WGSL's validator knows neither the device's shapes nor how subgroups hand tiles through
//! workgroup memory, and a driver may be wrong at one tile and right at another. A shape that fails is left out, visibly in
//! [`GpuEngine::matrix_verdicts`], and its problems run on the portable kernel.

use super::engine::{GpuEngine, GpuPlan};
use crate::caps::Tier;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::attend::Attend;
use crate::kernel::key::{Const, KernelKey, Launch};
use crate::kernel::{Io, Kernel, Op};
use crate::plan::{Plan, Ref, Slot, SlotId, SlotRole, Stage};
use crate::tensor::{DType, HostTensor, Inputs, Layout};
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// The numbers of a key that its matrix code depends on.
pub type Shape = Vec<(&'static str, u32)>;

/// Whether each shape tried so far is right on this device.
pub type Verdicts = BTreeMap<Shape, bool>;

/// Feature maps touch no matrix.
const OTHER: [&str; 2] = ["Q_MAP", "K_MAP"];

pub(super) fn shape(key: &KernelKey) -> Shape {
    let numbers = |(name, value): &(&'static str, Const)| match value {
        Const::U32(n) => Some((*name, *n)),
        Const::Bool(_) => None,
    };
    key.consts.iter().filter_map(numbers).filter(|(name, _)| !OTHER.contains(name)).collect()
}

impl GpuEngine {
    /// The shapes of matrix kernels tried so far and whether they are right on this device.
    pub fn matrix_verdicts(&self) -> Verdicts {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The launch of a kernel: the one measured best here, else the first; by matrices only when this shape of them is known to be
    /// right.
    pub(super) fn launch(&self, kernel: &dyn Kernel, io: &Io) -> Result<Launch> {
        let caps = &self.gpu.caps;
        let first = kernel.launch(io, caps)?;
        let verdicts = self.matrix_verdicts();
        let serves = |launch: &Launch| launch.key.tier < Tier::T2 || verdicts.get(&shape(&launch.key)) == Some(&true);
        if let Some(wanted) = self.choices.wanted(&first, kernel.flops(io)) {
            for n in 0.. {
                let Some(launch) = kernel.alternative(n, io, caps)? else { break };
                if launch.key.label() == wanted && serves(&launch) {
                    return Ok(launch);
                }
            }
        }
        if serves(&first) {
            return Ok(first);
        }
        for n in 1.. {
            match kernel.alternative(n, io, caps)? {
                Some(launch) if serves(&launch) => return Ok(launch),
                Some(_) => {}
                None => break,
            }
        }
        let message = format!("{}: no launch passed the device's self-test", kernel.name());
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Tests the matrix shape of the launch that will be asked for, if it has one that was not tested yet.
    pub(super) async fn test_matrix(&self, kernel: &dyn Kernel, io: &Io) -> Result<()> {
        let first = kernel.launch(io, &self.gpu.caps)?;
        if let Some(wanted) = self.choices.wanted(&first, kernel.flops(io)) {
            for n in 1.. {
                match kernel.alternative(n, io, &self.gpu.caps)? {
                    Some(launch) if launch.key.label() == wanted => self.test_key(&launch.key).await,
                    Some(_) => {}
                    None => break,
                }
            }
        }
        self.test_key(&first.key).await;
        Ok(())
    }

    /// Tests the matrix shape of a key if it has one that was not tested yet.
    pub(super) async fn test_key(&self, key: &KernelKey) {
        let shape = shape(key);
        if key.tier < Tier::T2 || self.matrix_verdicts().contains_key(&shape) {
            return;
        }
        // A shader that does not compile is a failure like a wrong result: the portable kernel serves.
        let right = match key.entry.split_once('/') {
            Some(("scan", "chunks" | "chunks_channel")) => {
                self.judge(&shape, true);
                self.run_chunks(&shape).await
            }
            Some(("scan", _)) => self.run_scan(&shape).await,
            _ => {
                self.judge(&shape, true);
                self.run_matrix(&shape).await
            }
        };
        self.judge(&shape, right.unwrap_or(false));
    }

    pub(super) fn judge(&self, shape: &Shape, right: bool) {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(shape.clone(), right);
    }

    async fn run_matrix(&self, shape: &Shape) -> Result<bool> {
        let number = |name: &str| shape.iter().find(|(n, _)| *n == name).map_or(1, |(_, v)| *v as usize);
        let side = self.gpu.caps.matrix.unwrap_or(8) as usize;
        let (depth, width) = (number("DEPTH_TILES") * side, number("VALUE_TILES") * side);
        let problem = if shape.contains(&("QUERIES", 1)) {
            // One query of several heads; the last keys fill no step of all subgroups.
            Problem::new(side - 3, 1, 5 * number("SUBGROUPS") * side + 21, depth, width)
        } else {
            let rows = number("SUBGROUPS") * number("ROW_TILES") * side - 3;
            Problem::new(1, rows, rows + 21, depth, width)
        };
        let plan = problem.plan();
        let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        let (kernel, io) = (plan.stages[0].op.kernel(), plan.io(0, &layouts));
        let mut n = 0;
        let launch = loop {
            match kernel.alternative(n, &io, &self.gpu.caps)? {
                Some(launch) if self::shape(&launch.key) == *shape => break launch,
                Some(_) => n += 1,
                None => return Ok(false),
            }
        };
        // The run below asks for the launch by its label.
        let _wanted = self.choices.lend(&kernel.launch(&io, &self.gpu.caps)?, kernel.flops(&io), &launch);
        self.pipelines.prepare(&self.gpu, &launch.key).await?;
        let outputs = self.run(&plan, &GpuPlan::bare(&plan), &problem.inputs())?;
        let got = self.read(&outputs[0].1).await?.to_f64();
        let want = problem.definition();
        Ok(close(&want, &got))
    }
}

/// Numbers from -1 to 1, the same in every run.
pub(super) fn numbers() -> impl FnMut() -> f32 {
    let mut state = 1_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Adds a row-major slot to a plan that no variant wrote.
pub(super) fn add_slot(slots: &mut Vec<Slot>, name: &str, role: SlotRole, dtype: DType, shape: &[usize]) -> Ref {
    slots.push(Slot { name: name.into(), role, dtype, layout: Layout::contiguous(shape), check: None });
    Ref { slot: SlotId(slots.len() - 1), views: Vec::new(), dtype, shape: shape.to_vec() }
}

/// Within what halves as factors leave of the largest number.
pub(super) fn close(want: &[f64], got: &[f64]) -> bool {
    let largest = want.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    want.iter().zip(got).all(|(w, g)| (w - g).abs() <= 3e-3 * largest)
}

/// Causal attention of heads that share their keys, over data from a fixed seed.
struct Problem {
    tensors: [HostTensor; 3],
    scale: f32,
}

impl Problem {
    fn new(heads: usize, rows: usize, keys: usize, depth: usize, width: usize) -> Self {
        let mut next = numbers();
        let mut tensor = |heads: usize, rows: usize, width: usize| {
            HostTensor::from_fn(&[1, heads, rows, width], |_| next()).to_f16()
        };
        let (q, k, v) = (tensor(heads, rows, depth), tensor(1, keys, depth), tensor(1, keys, width));
        // Scores grow along the keys, far enough that accumulators are rescaled.
        let steps = k.to_f64();
        let k =
            HostTensor::from_fn(&[1, 1, keys, depth], |n| steps[n] as f32 * (n / depth) as f32 / keys as f32).to_f16();
        Problem { tensors: [q, k, v], scale: 40.0 / (depth as f32).sqrt() }
    }

    fn inputs(&self) -> Inputs {
        let [q, k, v] = &self.tensors;
        Inputs::new().with("q", q).with("k", k).with("v", v)
    }

    fn plan(&self) -> Plan {
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot = |name: &str, role, dtype, shape: &[usize]| add_slot(&mut slots, name, role, dtype, shape);
        let [q, k, v] = &self.tensors;
        let bindings = vec![
            ("q", slot("q", SlotRole::Input, DType::F16, q.shape())),
            ("k", slot("k", SlotRole::Input, DType::F16, k.shape())),
            ("v", slot("v", SlotRole::Input, DType::F16, v.shape())),
            (
                "out",
                slot("out", SlotRole::Output, DType::F32, &[1, q.shape()[1], q.shape()[2], v.shape()[3]]).insert(0),
            ),
        ];
        let op = Op::Attend(Attend::new(self.scale).causal(true));
        let stage = Stage { label: "self-test".into(), op, bindings, tables: Vec::new(), hooks: Vec::new() };
        Plan { variant: "self-test", slots, stages: vec![stage], notes: Vec::new(), portable: None }
    }

    fn definition(&self) -> Vec<f64> {
        let [q, k, v] = self.tensors.each_ref().map(HostTensor::to_f64);
        let [rows, keys] = [self.tensors[0].shape()[2], self.tensors[1].shape()[2]];
        let all = self.tensors[0].shape()[1] * rows;
        let (depth, width) = (q.len() / all, v.len() / keys);
        let mut out = vec![0.0; all * width];
        for i in 0..all {
            let seen = (i % rows + 1 + keys - rows).min(keys);
            let score = |j: usize| {
                let dot: f64 = (0..depth).map(|d| q[i * depth + d] * k[j * depth + d]).sum();
                dot * f64::from(self.scale)
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (j, s) in scores.iter().enumerate() {
                let weight = (s - top).exp() / total;
                (0..width).for_each(|d| out[i * width + d] += weight * v[j * width + d]);
            }
        }
        out
    }
}
