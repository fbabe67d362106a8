//! Stages that several operators share: products of small matrices, and both passes of an attention map that is never stored.

use crate::error::Result;
use crate::hook::Hook;
use crate::hooks;
use crate::kernel::attend::{Attend, Normaliser};
use crate::kernel::diagnose::Fold;
use crate::kernel::scan::Scan;
use crate::kernel::transform::{Feature, Map};
use crate::plan::{AttendIo, PlanBuilder, Ref, ScanIo};
use crate::tensor::{DType, HostTensor};

/// f32 scratch.
pub(crate) fn scratch(plan: &mut PlanBuilder, name: &str, shape: &[usize]) -> Ref {
    plan.scratch(name, DType::F32, shape)
}

/// Ones that broadcast to `shape`.
pub(crate) fn ones(plan: &mut PlanBuilder, shape: &[usize]) -> Ref {
    plan.constant("ones", HostTensor::from_fn(&[1, 1, 1, 1], |_| 1.0)).broadcast(shape)
}

/// `read_t = q_tᵀ Σ_(s ≤ t) k_s v_sᵀ`, the sum going on from `state_in` and left in `state`.
pub(crate) fn sums(
    plan: &mut PlanBuilder,
    label: &str,
    [q, k, v]: [&Ref; 3],
    read: &Ref,
    (state_in, state): (Option<Ref>, &Ref),
) -> Result<()> {
    let io = ScanIo { state_in, ..ScanIo::new(q, k, v, read, state) };
    plan.scan(label, Scan::new(1.0), io)
}

/// A folded row of x (B, H, I, J) as scratch (B, H, I, 1).
pub(crate) fn folded(plan: &mut PlanBuilder, name: &str, op: Fold, x: &Ref, hooks: Vec<Hook>) -> Result<Ref> {
    let x = x.lead(4);
    let out = scratch(plan, name, &[x.shape[0], x.shape[1], x.shape[2], 1]);
    plan.fold(name, op, &x, &out, hooks)?;
    Ok(out)
}

/// x, changed by hooks, as scratch of its shape in row-major order.
pub(crate) fn changed(plan: &mut PlanBuilder, name: &str, x: &Ref, hooks: Vec<Hook>) -> Result<Ref> {
    let out = scratch(plan, name, &x.lead(4).shape);
    plan.fold(name, Fold::each(), x, &out, hooks)?;
    Ok(out)
}

/// Hooks that keep a number from −bound to bound.
pub(crate) fn clip(bound: f32) -> Vec<Hook> {
    // min(x, c) = −max(−x, −c)
    vec![hooks::at_least(-bound), hooks::times(-1.0), hooks::at_least(-bound), hooks::times(-1.0)]
}

/// x (B, Hk, L, D) with the head that each of `heads` query heads reads; itself where there are as many.
pub(crate) fn every_head(plan: &mut PlanBuilder, name: &str, x: &Ref, heads: usize) -> Result<Ref> {
    if x.shape[1] == heads {
        return Ok(x.clone());
    }
    let out = scratch(plan, name, &[x.shape[0], heads, x.shape[2], x.shape[3]]);
    plan.fold(name, Fold::each(), x, &out, Vec::new())?;
    Ok(out)
}

/// `out = factor · weights · values`, weights (B, H, I, J) in any order of axes, values (B, H, J, E), out (B, H, I, E): an `attend` whose
/// weights are a table. `mass` takes the sums of the weights.
pub(crate) fn product(
    plan: &mut PlanBuilder,
    label: &str,
    weights: &Ref,
    values: &Ref,
    factor: f32,
    out: &Ref,
    mass: Option<&Ref>,
) -> Result<()> {
    // q·k is not looked at, so one channel of whatever has the right sizes will do.
    let mut io = AttendIo::new(&weights.narrow(3, 0, 1), &values.narrow(3, 0, 1), values, out);
    io.mass = mass.cloned();
    let op = Attend { normaliser: Normaliser::Weights, ..Attend::new(1.0) };
    plan.attend(label, op, io, vec![hooks::take(weights, factor)])
}

/// The log-sum-exp of q (B, H, Lq, D) over k (B, Hk, Lk, D) into `lse` (B, H, Lq).
pub(crate) fn row_lse(
    plan: &mut PlanBuilder,
    op: Attend,
    [q, k]: [&Ref; 2],
    lse: &Ref,
    hooks: Vec<Hook>,
) -> Result<()> {
    let unused = scratch(plan, "unused", &[q.shape[0], q.shape[1], q.shape[2], 1]);
    let mut io = AttendIo::new(q, k, &k.narrow(3, 0, 1), &unused);
    io.lse = Some(lse.clone());
    plan.attend("lse", op, io, hooks)
}

/// What the columns of the map of `op` gather: `out_j = Σ_i p_ij v_i` and `mass_j = Σ_i p_ij`, from the rows' `lse` (B, H, Lq).
///
/// The roles are swapped: keys ask, queries answer, and the exponents s_ij − lse_i are at most 0, so that no running maximum is needed.
/// q (B, H, Lq, D), k (B, Hk, Lk, D), v (B, H, Lq, Dv), out (B, H, Lk, Dv), mass (B, H, Lk), mask (B, H, Lq, Lk); `message` (B, H, Lq) is
/// a further factor of the weights.
pub(crate) struct Columns<'a> {
    pub op: Attend,
    pub q: &'a Ref,
    pub k: &'a Ref,
    pub v: Option<&'a Ref>,
    pub lse: &'a Ref,
    pub mask: Option<Ref>,
    pub message: Option<Ref>,
    pub out: Option<&'a Ref>,
    pub mass: &'a Ref,
}

impl Columns<'_> {
    pub(crate) fn stage(self, plan: &mut PlanBuilder, label: &str) -> Result<()> {
        let (queries, keys) = (self.q.shape[2], self.k.shape[2]);
        let asking = every_head(plan, "k_heads", self.k, self.q.shape[1])?;
        let unused = match self.out {
            Some(out) => out.clone(),
            None => scratch(plan, "unused", &[self.q.shape[0], self.q.shape[1], keys, 1]),
        };
        let values = self.v.cloned().unwrap_or_else(|| self.q.narrow(3, 0, 1));
        let mut io = AttendIo::new(&asking, self.q, &values, &unused);
        io.mass = Some(self.mass.clone());
        if self.op.causal {
            // Column j is seen by the rows from j − (Lk − Lq).
            let first = (0..keys as i64).map(|j| (j - keys as i64 + queries as i64).max(0) as i32);
            let first = HostTensor::new(&[1, 1, keys, 1], first.collect::<Vec<_>>())?;
            io.row_start = Some(plan.constant("first_row", first));
        }
        let mut chain = vec![hooks::probability(self.lse.insert(2))];
        chain.extend(self.message.map(|m| hooks::times(m.insert(2))));
        chain.extend(self.mask.map(|m| hooks::given(m.permute(&[0, 1, 3, 2]))));
        let op = Attend { normaliser: Normaliser::Weights, ..Attend::new(self.op.scale) };
        plan.attend(label, op, io, chain)
    }
}

/// `out_nc = Σ_c' softmax_c'(scores_cc') tokens_nc'`: attention between channels from its scores (B, H, C, C), tokens (B, H, L, C).
pub(crate) fn mix_channels(plan: &mut PlanBuilder, scores: &Ref, tokens: &Ref, out: &Ref) -> Result<()> {
    let map = scratch(plan, "map", &scores.shape);
    plan.map("softmax", Map { feature: Feature::Softmax }, scores, &map)?;
    let columns = changed(plan, "transposed", &map.permute(&[0, 1, 3, 2]), Vec::new())?;
    product(plan, "mix", tokens, &columns, 1.0, out, None)
}

/// The rank of each number of x (B, N) in descending order, ties by index, as scratch (B, 1, 1, N); `mask` restricts whom it counts.
pub(crate) fn ranks(plan: &mut PlanBuilder, name: &str, x: &Ref, mask: Vec<Hook>) -> Result<Ref> {
    let (own, all) = (x.insert(1).insert(3), x.insert(1).insert(1));
    let count = x.shape[1];
    let mut chain = vec![hooks::ahead(own)];
    chain.extend(mask);
    let rank = folded(plan, name, Fold::sum(), &all.broadcast(&[x.shape[0], 1, count, count]), chain)?;
    Ok(rank.permute(&[0, 1, 3, 2]))
}

/// Hooks that make 1 of the ranks below `count` and 0 of the others.
pub(crate) fn rank_below(count: usize) -> Vec<Hook> {
    vec![hooks::times(-1.0), hooks::above(0.5 - count as f32, 0.0)]
}
