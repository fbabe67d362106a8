//! Three gated branches, each with a softmax of its own: compressed tokens, selected blocks and a sliding window.
//!
//! ```text
//! l, d, l' = cmp_length, cmp_stride, sel_block     t = i + Lk − Lq
//! k̃_c, ṽ_c = Σ_n cmp_weight_n (k, v)_(c·d + n), n < l     visible iff c·d + l − 1 ≤ t
//! out_cmp, p = attention over the visible k̃, ṽ and its weights
//! importance_b = Σ_(heads of the key head) Σ_(m < l'/d) Σ_(n < l/d) p[b l'/d + m − n]
//! blocks  = top sel_count of importance; +∞ for the first init_blocks and last local_blocks up to ⌊t/l'⌋, −∞ beyond
//! out_sel = attention over j ≤ t in blocks     out_win = attention over t − window < j ≤ t
//! out     = g_0 out_cmp + g_1 out_sel + g_2 out_win
//! ```
//!
//! J. Yuan, H. Gao, D. Dai, J. Luo, L. Zhao, Z. Zhang, Z. Xie, Y. X. Wei, L. Wang, Z. Xiao, Y. Wang, C. Ruan,
//! M. Zhang, W. Liang, W. Zeng, "Native Sparse Attention: Hardware-Aligned and Natively Trainable Sparse Attention",
//! ACL 2025, arXiv 2502.11089, section 3.3.
//!
//! Kernels `pool`, `attend` (compressed), `select`, `attend` (blocks), `attend` (window), `combine` with gates.
//!
//! Limits: always causal; d divides l and l'. Only complete windows are compressed; `cmp_weight` (default the mean)
//! stands for the learned compression. Gates come through their sigmoid. There is no joint softmax: a branch without
//! keys gives 0 and lse = −∞. A plan given as `blocks` (−1 padded, no repeats) takes the place of the blocks that are
//! attended; the output `blocks` is that of the search all the same.

use crate::error::{ErrorKind, Result};
use crate::kernel::attend::{Attend, Keys};
use crate::kernel::pool::Pool;
use crate::kernel::select::{Score, TopK};
use crate::oracle::{Array, Inputs, Outputs, attention, bottom_right, dot, list_count, padded, scale, top_k};
use crate::plan::{AttendIo, Check, PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::{DType, HostTensor};
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::common::{K, OUT, Q, V, default_scale};
use crate::{named, params};

params! {
    /// Compressed, selected and windowed attention, gated.
    pub struct NativeSparseAttention {
        /// Keys of a compressed token.
        cmp_length: usize = 32,
        /// Keys between the starts of compressed tokens.
        cmp_stride: usize = 16,
        /// Keys of a selection block.
        sel_block: usize = 64,
        /// Blocks selected, the forced ones included.
        sel_count: usize = 16,
        /// First blocks that are always selected.
        init_blocks: usize = 1,
        /// Last blocks, the query's own included, that are always selected.
        local_blocks: usize = 2,
        /// Last keys of the window, the query's own included.
        window: usize = 512,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for NativeSparseAttention {
    const CARD: Card = Card {
        name: "native-sparse-attention",
        family: Family::Hierarchical,
        summary: "Three gated branches: compressed tokens, selected blocks and a sliding window.",
        equation: "out = g_0 attn(q, k̃, ṽ) + g_1 attn(q, k, v | top blocks) + g_2 attn(q, k, v | window)",
        paper: "Yuan et al., Native Sparse Attention, ACL 2025, arXiv 2502.11089, section 3.3",
        inputs: &[
            Q,
            K,
            V,
            InputSpec::float("gates", "B H Lq 3"),
            InputSpec::float("cmp_weight", "cmp_length").optional(),
            InputSpec::index("blocks", "B Hk Lq K").optional(),
        ],
        outputs: &[
            OUT,
            OutputSpec::index("blocks", "B Hk Lq min(sel_count,ceil(Lk,sel_block))"),
            OutputSpec::float("importance", "B Hk Lq ceil(Lk,sel_block)"),
            OutputSpec::float("out_cmp", "B H Lq Dv"),
            OutputSpec::float("out_sel", "B H Lq Dv"),
            OutputSpec::float("out_win", "B H Lq Dv"),
            OutputSpec::float("lse_cmp", "B H Lq"),
            OutputSpec::float("lse_sel", "B H Lq"),
            OutputSpec::float("lse_win", "B H Lq"),
        ],
        forms: &["prefill", "decode"],
        kernels: &["pool", "attend", "select", "attend", "attend", "combine"],
    };
}

impl Variant for NativeSparseAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        self.verify(problem)?;
        let (l, d, block) = (self.cmp_length, self.cmp_stride, self.sel_block);
        let (batch, heads, kv_heads) = (problem.size("B"), problem.size("H"), problem.size("Hk"));
        let (rows, lk, scale) = (problem.size("Lq"), problem.size("Lk"), default_scale(self.scale, problem));
        let [q, k, v] = [plan.input("q")?, plan.input("k")?, plan.input("v")?];
        let mut branch = |name: &str| -> Result<_> {
            Ok((plan.output(&format!("out_{name}"))?, plan.output(&format!("lse_{name}"))?))
        };
        let ((out_cmp, lse_cmp), (out_sel, lse_sel), (out_win, lse_win)) =
            (branch("cmp")?, branch("sel")?, branch("win")?);

        // Without a complete window there is one incomplete one, which no row sees: tensors are not empty.
        let count = if lk < l { 0 } else { (lk - l) / d + 1 };
        let weight = plan.optional("cmp_weight");
        let window = Pool { size: l, stride: d, offset: 0, mean: weight.is_none() };
        let mut compress = |x: &Ref, name: &str| -> Result<Ref> {
            let to = plan.scratch(name, DType::F32, &[batch, kv_heads, count.max(1), x.shape[3]]);
            plan.pool(name, window, &x.insert(0), weight.as_ref(), &to.insert(0))?;
            Ok(to)
        };
        let (k_cmp, v_cmp) = (compress(&k, "k_cmp")?, compress(&v, "v_cmp")?);

        // Windows c with c·d + l − 1 <= i + Lk − Lq.
        let seen = |i: usize| (i + lk + d).checked_sub(rows + l - 1).map_or(0, |room| (room / d).min(count) as i32);
        let table = |plan: &mut PlanBuilder, name: &str, ends: Vec<i32>| -> Result<Ref> {
            let ends = HostTensor::new(&[1, 1, ends.len(), 1], ends)?;
            Ok(plan.constant(name, ends).broadcast(&[batch, heads, rows, 1]))
        };
        let mut io = AttendIo::new(&q, &k_cmp, &v_cmp, &out_cmp).lse(&lse_cmp);
        io.row_start = Some(table(plan, "row_start", vec![0])?);
        io.row_end = Some(table(plan, "row_end", (0..rows).map(seen).collect())?);
        plan.attend("compressed", Attend::new(scale), io, Vec::new())?;

        let p = plan.scratch("p_cmp", DType::F32, &[batch, kv_heads, rows, count.max(1)]);
        let score = Score { unit: d, lead: l - 1, ..Score::probability(scale, lk) };
        let list = vec![("q", q.clone()), ("k", k_cmp), ("lse", lse_cmp), ("scores", p.clone())];
        plan.score("probabilities", score, list)?;
        let (importance, blocks) = (plan.output("importance")?, plan.output("blocks")?);
        let (overlap, before) = self.overlap();
        let taps = Pool { size: overlap.len(), stride: block / d, offset: before, mean: false };
        let overlap = plan.constant("overlap", HostTensor::new(&[overlap.len()], overlap)?);
        plan.pool("importance", taps, &p.insert(4), Some(&overlap), &importance.insert(4))?;
        let (force_first, force_last) = (self.init_blocks, self.local_blocks);
        let best = TopK { causal: true, tokens: lk, unit: block, force_first, force_last, ..TopK::plain() };
        plan.top_k("blocks", best, &importance, None, &blocks)?;

        let given = plan.optional("blocks");
        given.iter().for_each(|list| plan.check(list, Check::IndexBelow(lk.div_ceil(block))));
        let causal = Attend::new(scale).causal(true);
        let mut io = AttendIo::new(&q, &k, &v, &out_sel).lse(&lse_sel);
        io.indices = Some(given.unwrap_or(blocks));
        plan.attend("selected", Attend { keys: Keys::Tokens { block }, ..causal }, io, Vec::new())?;
        let io = AttendIo::new(&q, &k, &v, &out_win).lse(&lse_win);
        plan.attend("window", Attend { window_left: Some(self.window - 1), ..causal }, io, Vec::new())?;
        let out = plan.output("out")?;
        plan.mix([&out_cmp, &out_sel, &out_win], &plan.input("gates")?, &out)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let (scale, group) = (scale(self.scale, q), q.shape[1] / k.shape[1]);
        let (k_cmp, v_cmp) = (self.compress(inputs, k), self.compress(inputs, v));
        let (out_cmp, lse_cmp) = attention(q, &k_cmp, &v_cmp, scale, &|row, c, s| {
            let end = (c * self.cmp_stride + self.cmp_length - 1) as i64;
            (end <= bottom_right(row.i, q, k)).then_some(s)
        });
        let importance = self.importance(q, k, &k_cmp, &lse_cmp, scale);
        let blocks = importance.map_rows(|at, scores| self.select(scores, bottom_right(at[2], q, k)));
        let plan = inputs.find("blocks").unwrap_or(&blocks);
        let (out_sel, lse_sel) = attention(q, k, v, scale, &|row, j, s| {
            let count = list_count(plan.row(&[row.b, row.h / group, row.i]), j / self.sel_block)?;
            (j as i64 <= bottom_right(row.i, q, k)).then_some(s + count.ln())
        });
        let (out_win, lse_win) = attention(q, k, v, scale, &|row, j, s| {
            let before = bottom_right(row.i, q, k) - j as i64;
            (0 <= before && before < self.window as i64).then_some(s)
        });
        let out = out_cmp.map_rows(|at, row| {
            let (g, sel, win) = (inputs.get("gates").row(at), out_sel.row(at), out_win.row(at));
            (0..row.len()).map(|e| g[0] * row[e] + g[1] * sel[e] + g[2] * win[e]).collect()
        });
        let branches = [("out_cmp", out_cmp), ("out_sel", out_sel), ("out_win", out_win)];
        let sums = [("lse_cmp", lse_cmp), ("lse_sel", lse_sel), ("lse_win", lse_win)];
        let plan = [("out", out), ("blocks", blocks), ("importance", importance)];
        plan.into_iter().chain(branches).chain(sums).collect()
    }
}

impl NativeSparseAttention {
    fn verify(&self, problem: &Problem) -> Result<()> {
        let (l, d, block) = (self.cmp_length, self.cmp_stride, self.sel_block);
        let sizes = [
            ("cmp_length", l),
            ("cmp_stride", d),
            ("sel_block", block),
            ("sel_count", self.sel_count),
            ("window", self.window),
        ];
        if let Some((name, _)) = sizes.into_iter().find(|(_, n)| *n == 0) {
            return Err(problem.refuse(ErrorKind::Parameter, name, "1 or more", 0));
        }
        if let Some((name, n)) = [("cmp_length", l), ("sel_block", block)].into_iter().find(|(_, n)| n % d != 0) {
            return Err(problem.refuse(ErrorKind::Parameter, name, format!("a multiple of cmp_stride = {d}"), n));
        }
        Ok(())
    }

    /// How often the compressed tokens around a block count towards its importance, and how many of them start before it.
    fn overlap(&self) -> (Vec<f32>, usize) {
        let (blocks, windows) = (self.sel_block / self.cmp_stride, self.cmp_length / self.cmp_stride);
        let mut counts = vec![0.0; blocks + windows - 1];
        for m in 0..blocks {
            for n in 0..windows {
                counts[m + windows - 1 - n] += 1.0;
            }
        }
        (counts, windows - 1)
    }

    /// Every complete window of `x` (B, Hk, Lk, ·) as one row.
    fn compress(&self, inputs: &Inputs, x: &Array) -> Array {
        let [batch, heads, length, width] = x.shape[..] else { panic!("k and v have rank 4") };
        let (l, d) = (self.cmp_length, self.cmp_stride);
        let count = if length < l { 0 } else { (length - l) / d + 1 };
        Array::zeros(&[batch, heads, count, width]).map_rows(|at, _| {
            let term = |e: usize, n: usize| {
                inputs.number("cmp_weight", &[n], 1.0 / l as f64) * x.get(&[at[0], at[1], at[2] * d + n, e])
            };
            (0..width).map(|e| (0..l).map(|n| term(e, n)).sum()).collect()
        })
    }

    /// The weights of the compressed branch, summed over the windows that overlap a block and over the heads of a key
    /// head.
    fn importance(&self, q: &Array, k: &Array, k_cmp: &Array, lse: &Array, scale: f64) -> Array {
        let [batch, kv_heads, lk, _] = k.shape[..] else { panic!("k has rank 4") };
        let (lq, group, count) = (q.shape[2], q.shape[1] / kv_heads, k_cmp.shape[2]);
        let (l, d, block) = (self.cmp_length, self.cmp_stride, self.sel_block);
        let p = |b: usize, h: usize, i: usize, c: usize| {
            let visible = (c * d + l - 1) as i64 <= bottom_right(i, q, k);
            let s = || scale * dot(q.row(&[b, h, i]), k_cmp.row(&[b, h / group, c]));
            if visible { (s() - lse.get(&[b, h, i])).exp() } else { 0.0 }
        };
        Array::zeros(&[batch, kv_heads, lq, lk.div_ceil(block)]).map_rows(|at, row| {
            let [b, hk, i] = at[..] else { unreachable!("three outer axes") };
            let mut sums = row.to_vec();
            for (n, sum) in sums.iter_mut().enumerate() {
                for m in 0..block / d {
                    for o in 0..l / d {
                        let window = (n * (block / d) + m).checked_sub(o).filter(|&c| c < count);
                        *sum += window.map_or(0.0, |c| (hk * group..(hk + 1) * group).map(|h| p(b, h, i, c)).sum());
                    }
                }
            }
            sums
        })
    }

    /// The blocks that a query at place `t` attends, from their importance.
    fn select(&self, importance: &[f64], t: i64) -> Vec<f64> {
        let current = t.div_euclid(self.sel_block as i64);
        let scores: Vec<f64> = (0..)
            .zip(importance)
            .map(|(n, &score)| match n {
                n if n > current => f64::NEG_INFINITY,
                n if n < self.init_blocks as i64 || n > current - self.local_blocks as i64 => f64::INFINITY,
                _ => score,
            })
            .collect();
        padded(&top_k(&scores, self.sel_count), self.sel_count.min(scores.len()))
    }
}
