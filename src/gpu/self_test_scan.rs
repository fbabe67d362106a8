//! The self-test of the scan by cooperative matrices: records, segments, decay, the delta rule, state and z against the recurrence in f64.

use super::engine::GpuEngine;
use super::self_test::{Shape, add_slot, close, numbers, shape};
use crate::caps::Tier;
use crate::error::Result;
use crate::kernel::Op;
use crate::kernel::key::ScalarType;
use crate::kernel::scan::{self, CHUNK, Carry, Chunked, Chunks, Decay, Divide, Pass, Reads, Rows, Sums, padded_state};
use crate::plan::{Plan, Ref, Slot, SlotRole, Stage};
use crate::tensor::{DType, HostTensor, Inputs, Layout};

/// Tokens of a segment.
const SEGMENT: usize = 64;
/// The last segment and its last chunk are not full.
const TOKENS: usize = 2 * SEGMENT + 43;
/// The same where all segments are read at once: as many whole segments as make a span, and a part of the next one.
const MORE_AT_ONCE: usize = 75;
const SCALE: f32 = 0.25;

impl GpuEngine {
    pub(super) async fn run_scan(&self, of: &Shape) -> Result<bool> {
        let number = |name: &str| of.iter().find(|(n, _)| *n == name).map_or(1, |(_, v)| *v as usize);
        let side = self.gpu.caps.matrix.unwrap_or(8) as usize;
        let decay = [Decay::None, Decay::Scalar, Decay::Channel][number("DECAY").min(2)];
        let at_once = of.iter().any(|(name, _)| *name == "SEGMENT");
        let (depth, divide) = (number("DEPTH_TILES") * side, number("DIVIDE") > 0);
        let (width, z) = match at_once {
            true => (number("VALUE_TILES") * side, of.contains(&("Z", 1)) || divide),
            false => (number("COLUMNS") * 4, number("NORM") > 1),
        };
        let span = if number("SPANS") > 0 { 2 } else { 1 };
        let tokens = if at_once { span * scan::SEGMENT + MORE_AT_ONCE } else { TOKENS };
        let problem = Problem::new([tokens, depth, width], decay, !at_once && number("DELTA") == 1, z, divide);
        let plan = if at_once { problem.plan_at_once(span) } else { problem.plan() };
        let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        // Stages that are not known yet are right together, so they are lent the verdict for this run.
        let mut lent = Vec::new();
        for n in 0..plan.stages.len() {
            let key = plan.stages[n].op.kernel().launch(&plan.io(n, &layouts), &self.gpu.caps)?.key;
            if key.tier == Tier::T2 && !self.matrix_verdicts().contains_key(&shape(&key)) {
                lent.push(shape(&key));
            }
        }
        if !lent.contains(of) {
            return Ok(false);
        }
        lent.iter().for_each(|shape| self.judge(shape, true));
        let right = self.agrees(&plan, &layouts, &problem).await;
        lent.iter().for_each(|shape| self.judge(shape, *right.as_ref().unwrap_or(&false)));
        right
    }

    async fn agrees(&self, plan: &Plan, layouts: &[Layout], problem: &Problem) -> Result<bool> {
        for n in 0..plan.stages.len() {
            let launch = self.launch(plan.stages[n].op.kernel(), &plan.io(n, layouts))?;
            self.pipelines.prepare(&self.gpu, &launch.key).await?;
        }
        let outputs = self.run(plan, &self.scratch(plan)?, &problem.inputs())?;
        let mut right = true;
        for ((_, got), want) in outputs.iter().zip(problem.definition()) {
            let got = self.read(got).await?.to_f64();
            right &= close(&want, &got);
        }
        Ok(right)
    }
}

/// One head over data from a fixed seed.
struct Problem {
    /// q, k, v, log decay, write weight, state before.
    tensors: [HostTensor; 6],
    decay: Decay,
    delta: bool,
    z: bool,
    divide: bool,
}

const NAMES: [&str; 6] = ["q", "k", "v", "gates", "weights", "before"];

impl Problem {
    fn new([tokens, depth, width]: [usize; 3], decay: Decay, delta: bool, z: bool, divide: bool) -> Self {
        let mut next = numbers();
        let mut tensor = |shape: [usize; 4], by: f32, more: f32| HostTensor::from_fn(&shape, |_| by * next() + more);
        // Positive pairs, so that a divisor is no small difference; for the delta rule keys of about unit length that have much in common, so that
        // the chunk's own pairs count.
        let (by, more) = if delta { ((depth as f32).powf(-0.5), 0.7 * (depth as f32).powf(-0.5)) } else { (1.0, 1.25) };
        let channels = if decay == Decay::Channel { depth } else { 1 };
        let tensors = [
            tensor([1, 1, tokens, depth], 1.0, 1.25).to_f16(),
            tensor([1, 1, tokens, depth], by, more).to_f16(),
            tensor([1, 1, tokens, width], 1.0, 0.0).to_f16(),
            tensor([1, 1, tokens, channels], 0.1, -0.1),
            tensor([1, 1, tokens, 1], 0.4, 0.6),
            tensor([1, 1, depth, width], 1.0, 0.0),
        ];
        Problem { tensors, decay, delta, z, divide }
    }

    fn inputs(&self) -> Inputs {
        NAMES.iter().zip(&self.tensors).fold(Inputs::new(), |all, (name, x)| all.with(name, x))
    }

    /// L, D, Dv.
    fn sizes(&self) -> [usize; 3] {
        [(1, 2), (1, 3), (2, 3)].map(|(n, axis): (usize, usize)| self.tensors[n].shape()[axis])
    }

    /// The stages where all segments are read at once.
    fn plan_at_once(&self, span: usize) -> Plan {
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot = |name: &str, role, dtype, shape: &[usize]| add_slot(&mut slots, name, role, dtype, shape);
        let [tokens, depth, width] = self.sizes();
        let given: Vec<Ref> =
            NAMES.iter().zip(&self.tensors).map(|(n, x)| slot(n, SlotRole::Input, x.dtype(), x.shape())).collect();
        let [q, k, v, gates, weights, before] = [0, 1, 2, 3, 4, 5].map(|n: usize| given[n].clone());
        let out = slot("out", SlotRole::Output, DType::F32, &[1, 1, tokens, width]);
        let end = slot("state", SlotRole::Output, DType::F32, &[1, 1, depth, width]);
        let z_end = self.z.then(|| slot("z", SlotRole::Output, DType::F32, &[1, 1, depth]));
        let parts = tokens.div_ceil(scan::SEGMENT).next_multiple_of(span);
        let [rows, columns] = padded_state(depth, width);
        let mut scratch = |name: &str, shape: &[usize]| slot(name, SlotRole::Transient, DType::F32, shape);
        let state = scratch("states", &[1, parts, rows, columns]);
        let z = self.z.then(|| scratch("z_states", &[1, parts, depth]));
        let total = (self.decay == Decay::Scalar).then(|| scratch("total", &[1, parts, 1]));
        let ends: Vec<_> =
            [("z", z.clone()), ("total", total.clone())].into_iter().filter_map(|(n, r)| Some((n, r?))).collect();
        let firsts = |r: &Ref| r.split(1, parts / span).select(2, 0);
        let mut tables = vec![("w", weights, ScalarType::F32)];
        tables.extend((self.decay == Decay::Scalar).then_some(("g_scalar", gates, ScalarType::F32)));

        let (decay, divide) = (self.decay, if self.divide { Divide::Sum(0.0) } else { Divide::None });
        let sums = Op::Sums(Sums { decay, k: Rows::Given, span });
        let mut list = vec![("k", k.clone()), ("v", v.clone()), ("state", state.clone())];
        list.extend(ends.clone());
        let mut stages = vec![(sums, list, tables.clone())];
        let inner = firsts(&state.narrow(2, 0, depth).narrow(3, 0, width));
        let mut list = vec![("state", inner), ("state_in", before), ("end", end)];
        list.extend(ends.iter().map(|(name, r)| (*name, firsts(r))));
        list.extend(z_end.map(|z| ("z_end", z)));
        stages.push((Op::Carry(Carry { segments: parts / span }), list, vec![]));
        tables.extend(z.filter(|_| self.divide).map(|z| ("z_in", z.insert(2), ScalarType::F32)));
        let reads = Op::Reads(Reads { decay, scale: SCALE, divide, q: Rows::Given, k: Rows::Given, span });
        let mut list = vec![("q", q), ("k", k), ("v", v), ("state_in", state), ("out", out)];
        list.extend(total.map(|total| ("total", total)));
        stages.push((reads, list, tables));
        self_test_plan(slots, stages)
    }

    fn plan(&self) -> Plan {
        let mut slots: Vec<Slot> = Vec::new();
        let mut slot = |name: &str, role, dtype, shape: &[usize]| add_slot(&mut slots, name, role, dtype, shape);
        let [tokens, depth, width] = self.sizes();
        let given: Vec<Ref> =
            NAMES.iter().zip(&self.tensors).map(|(n, x)| slot(n, SlotRole::Input, x.dtype(), x.shape())).collect();
        let take = |n: usize| given[n].clone();
        let out = slot("out", SlotRole::Output, DType::F32, &[1, 1, tokens, width]);
        let state_after = slot("state", SlotRole::Output, DType::F32, &[1, 1, depth, width]);
        let z = self.z.then(|| slot("z", SlotRole::Output, DType::F32, &[1, 1, depth]));
        let mut scratch = |name: &str, dtype, shape: &[usize]| slot(name, SlotRole::Transient, dtype, shape);
        let made = Chunks::new(self.decay, self.delta, SCALE);
        let count = tokens.div_ceil(CHUNK);
        let chunks = scratch("chunks", DType::F16, &[1, 1, count, Chunks::record(self.delta, depth)]);
        let marks = scratch("marks", DType::F32, &[1, 1, count, Chunks::marks(depth)]);
        let parts = tokens.div_ceil(SEGMENT);
        let cut = !self.delta;
        let channels = if self.decay == Decay::Channel { depth } else { 1 };
        let sums = cut.then(|| scratch("sums", DType::F32, &[1, parts, depth, width]));
        let z_sums = (cut && self.z).then(|| scratch("z_sums", DType::F32, &[1, parts, depth]));
        let total = (cut && self.decay != Decay::None).then(|| scratch("total", DType::F32, &[1, parts, channels]));

        let chunked = |pass, divide| Op::Chunked(Chunked { depth, decay: self.decay, delta: self.delta, divide, pass });
        let bind = |roles: &[(&'static str, &Ref)], optional: &[(&'static str, Option<&Ref>)]| {
            let optional = optional.iter().filter_map(|(name, r)| Some((*name, (*r)?)));
            roles.iter().copied().chain(optional).map(|(name, r)| (name, r.clone())).collect::<Vec<_>>()
        };
        let channel = (self.decay == Decay::Channel).then(|| take(3));
        let mut tables = vec![("w", take(4), ScalarType::F32)];
        if self.decay == Decay::Scalar {
            tables.push(("g_scalar", take(3), ScalarType::F32));
        }
        let divide = if self.divide { Divide::Sum(0.0) } else { Divide::None };
        let [q, k, v, before] = [0, 1, 2, 5].map(take);
        let records = [("chunks", &chunks), ("marks", &marks)];
        let keys = bind(&[&[("q", &q), ("k", &k)], &records[..]].concat(), &[("g", channel.as_ref())]);
        let mut stages = vec![(Op::Chunks(made), keys, tables)];
        let own = [&[("v", &v)], &records[..]].concat();
        let all = |state| {
            let roles = [("out", &out), ("state", &state_after), ("state_in", state)];
            bind(&[&own[..], &roles].concat(), &[("z", z.as_ref())])
        };
        if let Some(sums) = &sums {
            let ends = [("z", z_sums.as_ref()), ("total", total.as_ref())];
            let first = bind(&[&own[..], &[("state", sums)]].concat(), &ends);
            stages.push((chunked(Pass::Sums(SEGMENT), Divide::None), first, vec![]));
            let carry = bind(&[("state", sums), ("state_in", &before)], &ends);
            stages.push((Op::Carry(Carry { segments: parts }), carry, vec![]));
            let z_in = z_sums.as_ref().map(|z| ("z_in", z.clone().insert(2), ScalarType::F32));
            stages.push((chunked(Pass::Reads(SEGMENT), divide), all(sums), z_in.into_iter().collect()));
        } else {
            stages.push((chunked(Pass::Whole, divide), all(&before), vec![]));
        }
        self_test_plan(slots, stages)
    }

    fn definition(&self) -> Vec<Vec<f64>> {
        let [q, k, v, gates, weights, before] = self.tensors.each_ref().map(HostTensor::to_f64);
        let [tokens, depth, width] = self.sizes();
        let (mut state, mut z, mut out) = (before, vec![0.0; depth], vec![0.0; tokens * width]);
        for t in 0..tokens {
            let (query, key) = (&q[t * depth..][..depth], &k[t * depth..][..depth]);
            for d in 0..depth {
                let decay = match self.decay {
                    Decay::None => 1.0,
                    Decay::Scalar => gates[t].exp(),
                    Decay::Channel => gates[t * depth + d].exp(),
                };
                z[d] = decay * z[d] + weights[t] * key[d];
                state[d * width..][..width].iter_mut().for_each(|s| *s *= decay);
            }
            let dot =
                |x: &[f64], state: &[f64], e: usize| -> f64 { (0..depth).map(|d| x[d] * state[d * width + e]).sum() };
            let by = if self.divide { query.iter().zip(&z).map(|(q, z)| q * z).sum() } else { 1.0 / f64::from(SCALE) };
            for e in 0..width {
                let held = if self.delta { dot(key, &state, e) } else { 0.0 };
                let change = weights[t] * (v[t * width + e] - held);
                (0..depth).for_each(|d| state[d * width + e] += key[d] * change);
                out[t * width + e] = dot(query, &state, e) / by;
            }
        }
        let mut all = vec![out, state];
        all.extend(self.z.then_some(z));
        all
    }
}

type Bound = (Op, Vec<(&'static str, Ref)>, Vec<(&'static str, Ref, ScalarType)>);

fn self_test_plan(slots: Vec<Slot>, stages: Vec<Bound>) -> Plan {
    let stage = |(op, bindings, tables)| Stage { label: "self-test".into(), op, bindings, tables, hooks: Vec::new() };
    Plan {
        variant: "self-test",
        slots,
        stages: stages.into_iter().map(stage).collect(),
        notes: Vec::new(),
        portable: None,
    }
}
