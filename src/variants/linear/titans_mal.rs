//! Memory as layer: a memory learns the tokens, and window attention reads what it recalled.
//!
//! ```text
//! y = titans-memory of [p | x]: v = x, q = k = x / √(Σ x² + 1e-6)     memory = the rows of y that belong to x
//! out_i = Σ_j softmax_j(scale (y w_q)_i·(y w_k)_j) (y w_v)_j     over the rows of p and i − window < j ≤ i
//! ```
//!
//! A. Behrouz, P. Zhong, V. Mirrokni, "Titans: Learning to Memorize at Test Time", 2025, arXiv 2501.00663, section 4.3.
//!
//! Kernels `diagnose` (weights), `transform` and `scan.memory` of the persistent tokens, then of x with the state they left;
//! `attend` (projections), `attend` (window), `attend` (persistent rows), `combine` (merge).
//!
//! Limits: those of titans-memory; the state does not come out, so that there are no calls in parts. Chunks count from the first persistent token. theta, alpha and
//! eta cover the persistent tokens first.

use crate::error::Result;
use crate::kernel::scan::Memory;
use crate::oracle::{self, Array, Inputs, Outputs, attention, unit};
use crate::plan::{PlanBuilder, Ref};
use crate::problem::Problem;
use crate::variant::{Card, Family, InputSpec, Named, OutputSpec, Variant};
use crate::variants::MemoryActivation;
use crate::variants::common::{Window, every_batch, project, unit_of};
use crate::variants::linear::titans_memory::{layers, oracle_layers, rates};
use crate::variants::steps::scratch;
use crate::{named, params};

params! {
    /// Titans, memory as layer.
    pub struct TitansMal {
        /// Keys of the window, the query's own included.
        window: usize = 64,
        /// Tokens whose gradients are taken at the same weights.
        chunk: usize = 1,
        /// Between two layers.
        act: MemoryActivation = MemoryActivation::Silu,
        /// c: 2 for the gradient of the square.
        grad_scale: f32 = 2.0,
        /// Factor of the scores; default Dp^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for TitansMal {
    const CARD: Card = Card {
        name: "titans-mal",
        family: Family::Linear,
        summary: "A memory learns the tokens, and window attention reads what it recalled.",
        equation: "out = attn(y w_q, y w_k, y w_v | window, rows of p), y = titans-memory([p | x])",
        paper: "Behrouz, Zhong, Mirrokni, Titans, 2025, arXiv 2501.00663",
        inputs: &[
            InputSpec::real("x", "B H L D"),
            InputSpec::float("p", "H P D").optional(),
            InputSpec::float("theta", "B H P+L"),
            InputSpec::float("alpha", "B H P+L"),
            InputSpec::float("eta", "B H P+L"),
            InputSpec::float("weight0", "H D Hid"),
            InputSpec::float("weight1", "H Hid D").optional(),
            InputSpec::float("w_q", "D Dp"),
            InputSpec::float("w_k", "D Dp"),
            InputSpec::float("w_v", "D Dp"),
        ],
        outputs: &[OutputSpec::float("out", "B H L Dp"), OutputSpec::float("memory", "B H L D")],
        forms: &["prefill"],
        kernels: &["diagnose", "transform", "scan", "transform", "scan", "attend", "attend", "attend", "combine"],
    };
}

impl Variant for TitansMal {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let (x, memory) = (plan.input("x")?, plan.output("memory")?);
        let [_, _, length, depth] = memory.shape[..] else { unreachable!("four words") };
        let layers = layers(problem, plan, self.chunk, [depth, depth])?;
        let learn = |plan: &mut PlanBuilder, name: &str, x: &Ref, first: usize, out: &Ref| -> Result<()> {
            let unit = every_batch(problem, unit_of(plan, name, x)?);
            let surprise = scratch(plan, "surprise", &out.shape[..3]);
            let rates = rates(plan, first, out.shape[2])?;
            let op = Memory {
                chunk: self.chunk,
                position: first,
                act: self.act.act(),
                gain: self.grad_scale,
                read_before: false,
                stretch: None,
            };
            plan.memory(name, op, [&unit, &unit, &every_batch(problem, x.clone())], &layers, rates, [out, &surprise])
        };
        let mut fixed = None;
        if let Some(p) = plan.optional("p") {
            let recalled = scratch(plan, "persistent", &problem.shape("B H P D")?);
            learn(plan, "p", &p.insert(0), 0, &recalled)?;
            fixed = Some(recalled);
        }
        learn(plan, "x", &x, fixed.as_ref().map_or(0, |rows| rows.shape[2]), &memory)?;

        let projected = |plan: &mut PlanBuilder, rows: &Ref, name: &str| -> Result<Ref> {
            let weight = plan.input(name)?;
            project(plan, name, rows, &weight)
        };
        let [q, k, v] = ["w_q", "w_k", "w_v"].map(|name| projected(plan, &memory, name));
        let qkv = [q?, k?, v?];
        let extra = match fixed {
            Some(rows) => Some([projected(plan, &rows, "w_k")?, projected(plan, &rows, "w_v")?]),
            None => None,
        };
        let (out, lse) = (plan.output("out")?, scratch(plan, "lse", &[x.shape[0], memory.shape[1], length]));
        let scale = self.scale.unwrap_or_else(|| (problem.size("Dp") as f64).powf(-0.5) as f32);
        Window { size: self.window, scale, qkv, extra }.stages(problem, plan, &out, &lse)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let x = inputs.get("x");
        let [batch, heads, length, d] = x.shape[..] else { panic!("rank 4") };
        let count = inputs.find("p").map_or(0, |p| p.shape[1]);
        let mut tokens = Array::zeros(&[batch, heads, count + length, d]);
        for (b, h, t) in (0..batch * heads * (count + length))
            .map(|n| (n / (count + length) / heads, n / (count + length) % heads, n % (count + length)))
        {
            let row = if t < count { inputs.get("p").row(&[h, t]) } else { x.row(&[b, h, t - count]) };
            tokens.row_mut(&[b, h, t]).copy_from_slice(row);
        }
        let units = tokens.map_rows(|_, row| unit(row, 1e-6));
        let act = |x: f64| self.act.both(x);
        let memory = oracle::Memory {
            qkv: [&units, &units, &tokens],
            rates: ["theta", "alpha", "eta"].map(|name| inputs.get(name)),
            act: &act,
            chunk: self.chunk,
            position: 0,
            gain: f64::from(self.grad_scale),
            read_before: false,
        };
        let mut weights = oracle_layers(inputs, batch);
        let (mut anchor, mut momentum) = (weights.clone(), weights.iter().map(|w| Array::zeros(&w.shape)).collect());
        let [y, _] = memory.run(&mut weights, &mut momentum, &mut anchor);
        let times = |name: &str| {
            let w = inputs.get(name);
            y.map_rows(|_, row| (0..w.shape[1]).map(|e| (0..d).map(|c| row[c] * w.get(&[c, e])).sum()).collect())
        };
        let [q, k, v] = ["w_q", "w_k", "w_v"].map(times);
        let own = |x: &Array| {
            let mut part = Array::zeros(&[batch, heads, length, x.shape[3]]);
            for (b, h, t) in (0..batch * heads * length).map(|n| (n / length / heads, n / length % heads, n % length)) {
                part.row_mut(&[b, h, t]).copy_from_slice(x.row(&[b, h, t + count]));
            }
            part
        };
        let scale = oracle::scale(self.scale, &q);
        let (out, _) = attention(&own(&q), &k, &v, scale, &|row, j, s| {
            let i = row.i + count;
            (j < count || (j <= i && j + self.window > i)).then_some(s)
        });
        vec![("out", out), ("memory", own(&y))]
    }
}
