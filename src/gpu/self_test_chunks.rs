//! The self-test of the records of chunks that matrices make and read, against their definition in f64.

use super::engine::GpuEngine;
use super::self_test::{Shape, add_slot, close, numbers, shape};
use crate::error::Result;
use crate::kernel::Op;
use crate::kernel::key::ScalarType;
use crate::kernel::scan::{CHUNK, Chunks, Decay};
use crate::plan::{Plan, Slot, SlotRole, Stage};
use crate::tensor::{DType, HostTensor, Inputs, Layout};

/// The last chunk is not full.
const TOKENS: usize = CHUNK + 21;

impl GpuEngine {
    pub(super) async fn run_chunks(&self, of: &Shape) -> Result<bool> {
        let number = |name: &str| of.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v as usize);
        let side = self.gpu.caps.matrix.unwrap_or(8) as usize;
        let decay = [Decay::None, Decay::Scalar, Decay::Channel].into_iter().find(|&d| d as usize == number("DECAY"));
        let op = Chunks::new(decay.unwrap_or(Decay::None), number("DELTA") == 1, 0.5);
        let problem = Problem::new(op, number("DEPTH_TILES") * side);
        let plan = problem.plan();
        let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        let launch = self.launch(plan.stages[0].op.kernel(), &plan.io(0, &layouts))?;
        if shape(&launch.key) != *of {
            return Ok(false);
        }
        self.pipelines.prepare(&self.gpu, &launch.key).await?;
        let outputs = self.run(&plan, &self.scratch(&plan)?, &problem.inputs())?;
        let (records, marks) = (self.read(&outputs[0].1).await?.to_f64(), self.read(&outputs[1].1).await?.to_f64());
        let (record, mark) = (Chunks::record(op.delta, problem.depth), Chunks::marks(problem.depth));
        Ok((0..TOKENS.div_ceil(CHUNK))
            .all(|n| problem.right(n * CHUNK, side, &records[n * record..][..record], &marks[n * mark..][..mark])))
    }
}

/// One head, over data from a fixed seed.
struct Problem {
    op: Chunks,
    depth: usize,
    q: HostTensor,
    k: HostTensor,
    /// A row has one number or one a channel.
    gates: HostTensor,
    weights: HostTensor,
}

impl Problem {
    fn new(op: Chunks, depth: usize) -> Self {
        let mut next = numbers();
        let mut tensor = |width: usize, scale: f32, more: f32| {
            HostTensor::from_fn(&[1, 1, TOKENS, width], |_| scale * next() + more)
        };
        // Keys have a length of about 1.
        let size = (3.0 / depth as f32).sqrt();
        let (q, k) = (tensor(depth, 1.0, 0.0).to_f16(), tensor(depth, size, 0.0).to_f16());
        let gates = tensor(if op.decay == Decay::Channel { depth } else { 1 }, 0.2, -0.2);
        Problem { op, depth, q, k, gates, weights: tensor(1, 0.5, 0.5) }
    }

    fn inputs(&self) -> Inputs {
        Inputs::new().with("q", &self.q).with("k", &self.k).with("gates", &self.gates).with("weights", &self.weights)
    }

    fn plan(&self) -> Plan {
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot = |name: &str, role, dtype, shape: &[usize]| add_slot(&mut slots, name, role, dtype, shape);
        let (input, output) = (SlotRole::Input, SlotRole::Output);
        let count = TOKENS.div_ceil(CHUNK);
        let mut bindings = vec![
            ("q", slot("q", input.clone(), DType::F16, self.q.shape())),
            ("k", slot("k", input.clone(), DType::F16, self.k.shape())),
        ];
        let gates = slot("gates", input.clone(), DType::F32, self.gates.shape());
        let weights = slot("weights", input, DType::F32, self.weights.shape());
        let chunks =
            slot("chunks", output.clone(), DType::F16, &[1, 1, count, Chunks::record(self.op.delta, self.depth)]);
        let marks = slot("marks", output, DType::F32, &[1, 1, count, Chunks::marks(self.depth)]);
        let mut tables = vec![("w", weights, ScalarType::F32)];
        match self.op.decay {
            Decay::None => {}
            Decay::Scalar => tables.push(("g_scalar", gates, ScalarType::F32)),
            Decay::Channel => bindings.push(("g", gates)),
        }
        bindings.extend([("chunks", chunks), ("marks", marks)]);
        let stage = Stage { label: "self-test".into(), op: Op::Chunks(self.op), bindings, tables, hooks: Vec::new() };
        Plan { variant: "self-test", slots, stages: vec![stage], notes: Vec::new(), portable: None }
    }

    /// Whether a record is that of the chunk from token `first` on.
    fn right(&self, first: usize, side: usize, record: &[f64], marks: &[f64]) -> bool {
        let Chunks { decay, delta, scale, .. } = self.op;
        let (c, p) = (CHUNK, self.depth);
        let [q, k, gates, w] = [&self.q, &self.k, &self.gates, &self.weights].map(HostTensor::to_f64);
        let row = |x: &[f64], i: usize, d: usize| if first + i < TOKENS { x[(first + i) * p + d] } else { 0.0 };
        let weight = |i: usize| w.get(first + i).copied().unwrap_or(0.0);
        let mut g = vec![0.0; c * p];
        for n in 0..c * p {
            let (i, d) = (n / p, n % p);
            let own = match decay {
                _ if first + i >= TOKENS => 0.0,
                Decay::None => 0.0,
                Decay::Scalar => gates[first + i],
                Decay::Channel => gates[(first + i) * p + d],
            };
            g[n] = own + if i == 0 { 0.0 } else { g[n - p] };
        }
        let last = &g[(c - 1) * p..];
        let pair = |x: &[f64], i: usize, j: usize| -> f64 {
            (0..p).map(|d| row(x, i, d) * row(&k, j, d) * (g[i * p + d] - g[j * p + d]).exp()).sum()
        };
        let by = |j: usize| if delta { 1.0 } else { weight(j) };
        let scale = f64::from(scale);
        let mut seen = vec![0.0; c * c];
        let mut solved = vec![0.0; c * c];
        for n in 0..c * c {
            let (i, j) = (n / c, n % c);
            if j <= i {
                seen[n] = scale * by(j) * pair(&q, i, j);
                let before: f64 = (j..i).map(|l| weight(i) * pair(&k, i, l) * solved[l * c + j]).sum();
                solved[n] = if i == j { weight(j) } else { -before };
            }
        }
        let tall =
            |x: &[f64], by: f64| -> Vec<f64> { (0..c * p).map(|n| by * row(x, n / p, n % p) * g[n].exp()).collect() };
        let keys: Vec<f64> = (0..p * c)
            .map(|n| (n / c, n % c))
            .map(|(d, j)| by(j) * row(&k, j, d) * (last[d] - g[j * p + d]).exp())
            .collect();
        let mut want = last.iter().map(|g| g.exp()).collect::<Vec<f64>>();
        want.extend(keys.chunks(c).map(|row| row.iter().sum::<f64>()));
        want.extend(seen.chunks(c).map(|row| row.iter().sum::<f64>()));
        let mut parts = vec![(tall(&q, scale), p), (keys, c), (seen, c)];
        if delta {
            parts.extend([(tall(&k, 1.0), p), (solved, c)]);
        }
        let mut start = 0;
        close(&want, marks)
            && parts.iter().all(|(want, columns)| {
                let part = &record[start..][..want.len()];
                start += want.len();
                let at = |row: usize, column: usize| {
                    (row / side * (columns / side) + column / side) * side * side + row % side * side + column % side
                };
                let got: Vec<f64> = (0..want.len()).map(|n| part[at(n / columns, n % columns)]).collect();
                close(want, &got)
            })
    }
}
