//! Attention over documents whose order in the prompt does not matter: each query places them by their importance to it.
//!
//! ```text
//! layout [prefix P | documents 1 .. n of lengths l_d | suffix], q and k without rotation; T = Σ l_d
//! importance of s for rows of document t: Σ_i (mass of i on s)/l_s, i over t, softmax over the tokens of all other documents
//! importance of s for a suffix row: (its mass on s)/l_s, softmax over all document tokens
//! a row places documents from P + T − 1 downwards: its own first, then by falling importance, the lower index of equal ones
//! out_i = Σ_j softmax_j(scale (R_p(i) q_i)·(R_p_i(j) k_j)) v_j     over p_i(j) ≤ p(i); document rows never see the suffix
//! ```
//!
//! Z. Wang, H. Zhang, X. Li, K.-H. Huang, C. Han, S. Ji, S. M. Kakade, H. Peng, H. Ji, "Eliminating Position Bias of Language
//! Models: A Mechanistic Approach" (PINE), ICLR 2025, arXiv 2407.01100, section 3.
//!
//! Kernels `attend` (masses: values are one-hot documents), `diagnose` (importance, order, places), `transform` (rotary),
//! `attend` a document, `combine`. A document moves as a whole, so instead of its keys the query turns, by as much the other
//! way: keys turn once, and the part of a document is one attention whose partial results merge.
//!
//! Limits: D is even; up to 512 documents, none empty. Partial results of n + 1 parts are stored. Near ties of importance make
//! the order, and so the result, jump.

use crate::error::{ErrorKind, Result};
use crate::hooks::{self, Bound};
use crate::kernel::attend::Attend;
use crate::kernel::diagnose::Fold;
use crate::oracle::{Array, Inputs, Outputs, attention, dot, frequencies as theta_of, rotate, scale, shared_head};
use crate::plan::{AttendIo, PlanBuilder, Ref};
use crate::problem::Problem;
use crate::tensor::HostTensor;
use crate::variant::{Card, Family, Named, OutputSpec, Variant};
use crate::variants::RopeLayout;
use crate::variants::common::{K_SELF, OUT_SELF, Q_SELF, V_SELF, default_scale, row_limits};
use crate::variants::rotary::{Turn, channels, frequencies, turned};
use crate::variants::steps::scratch;
use crate::{named, params};

/// The importance of a row's own document.
const OWN: f32 = 1e30;

params! {
    /// Attention that does not depend on the order of documents.
    pub struct PineAttention {
        /// Tokens before the documents.
        prefix: usize = 0,
        /// Tokens of each document.
        doc_lengths: Vec<usize> = vec![4, 4],
        /// Base of the rotary frequencies.
        base: f32 = 10000.0,
        /// Which channels are a pair.
        layout: RopeLayout = RopeLayout::Half,
        /// Factor of q·k; default D^-1/2.
        scale: Option<f32> = None,
    }
}

impl Named for PineAttention {
    const CARD: Card = Card {
        name: "pine-attention",
        family: Family::Dense,
        summary: "Attention over documents that each query places by their importance to it.",
        equation: "s_ij = scale (R_p(i) q_i)·(R_p_i(j) k_j), p_i places documents by importance to i",
        paper: "Wang et al., Eliminating Position Bias of Language Models, ICLR 2025, arXiv 2407.01100",
        inputs: &[Q_SELF, K_SELF, V_SELF],
        outputs: &[OUT_SELF, OutputSpec::index("order", "B H L-prefix n_docs")],
        forms: &["prefill"],
        kernels: &["attend", "diagnose", "transform", "attend", "combine"],
    };
}

/// A constant table of whole numbers.
fn table(plan: &mut PlanBuilder, name: &str, shape: &[usize], of: impl Fn(usize) -> usize) -> Result<Ref> {
    let list: Vec<i32> = (0..shape.iter().product()).map(|n| of(n) as i32).collect();
    Ok(plan.constant(name, HostTensor::new(shape, list)?))
}

impl PineAttention {
    /// The first token of each document, and one past the last one's.
    fn starts(&self) -> Vec<usize> {
        let mut starts = vec![self.prefix];
        starts.extend(self.doc_lengths.iter().scan(self.prefix, |end, n| {
            *end = end.saturating_add(*n);
            Some(*end)
        }));
        starts
    }

    /// Where each document begins for each group of rows, (B, H, G, n): a group is a document's rows or one row of the suffix.
    fn places(&self, problem: &Problem, plan: &mut PlanBuilder, group_of: &dyn Fn(usize) -> usize) -> Result<Ref> {
        let [batch, heads, kv_heads, length] = ["B", "H", "Hk", "L"].map(|letter| problem.size(letter));
        let (starts, count) = (self.starts(), self.doc_lengths.len());
        let (rows, tokens) = (length - self.prefix, starts[count] - self.prefix);
        let document = |token: usize| starts.iter().rposition(|&start| start <= token + self.prefix).unwrap_or(0);
        let hidden = table(plan, "own_rows", &[tokens, 2, 2], |n| match n % 4 {
            0 => starts[document(n / 4)] - self.prefix,
            1 => starts[document(n / 4) + 1] - self.prefix,
            _ => 0,
        })?;
        let one = |n: usize| f32::from(u8::from(document(n / count) == n % count));
        let values = plan.constant("documents", HostTensor::from_fn(&[1, 1, tokens, count], one));
        let mass = scratch(plan, "mass", &[batch, heads, rows, count]);
        let io = AttendIo::new(
            &plan.input("q")?.narrow(2, self.prefix, rows),
            &plan.input("k")?.narrow(2, self.prefix, tokens),
            &values.broadcast(&[batch, kv_heads, tokens, count]),
            &mass,
        );
        plan.attend("mass", Attend::new(default_scale(self.scale, problem)), io, vec![hooks::intervals(&hidden)])?;

        let groups = count + rows - tokens;
        let first = |g: usize| if g < count { starts[g] - self.prefix } else { tokens + g - count };
        let bounds = [
            [table(plan, "head", &[1, heads, 1, 1], |h| h)?, table(plan, "head_end", &[1, heads, 1, 1], |h| h + 1)?],
            [
                table(plan, "first_row", &[1, 1, groups, 1], first)?,
                table(plan, "end_row", &[1, 1, groups, 1], |g| first(g + 1))?,
            ],
            [
                table(plan, "column", &[1, 1, 1, count], |s| s)?,
                table(plan, "column_end", &[1, 1, 1, count], |s| s + 1)?,
            ],
        ];
        let lengths = table(plan, "doc_lengths", &[1, 1, 1, count], |s| self.doc_lengths[s])?;
        let zero = plan.constant("zero", HostTensor::zeros(&[1, 1, 1, 1]));
        let importance = scratch(plan, "importance", &[batch, heads, groups, count]);
        let chain = vec![
            hooks::box_sum(&mass, bounds.map(|range| range.map(Bound::Table))),
            hooks::over(&lengths),
            hooks::diagonal(OWN),
        ];
        plan.fold("importance", Fold::each(), &zero.broadcast(&importance.shape), &importance, chain)?;
        let order = plan.output_as("order", &[batch, heads, rows, count])?;
        let group = table(plan, "group_of_row", &[1, 1, rows, 1], |r| group_of(r + self.prefix))?;
        let ranked = hooks::ranked(&importance, group);
        plan.fold("order", Fold::each(), &zero.broadcast(&order.shape), &order, vec![ranked])?;
        let places = scratch(plan, "places", &importance.shape);
        let nearest = hooks::nearest_first(&importance, &lengths, starts[count]);
        plan.fold("places", Fold::each(), &zero.broadcast(&places.shape), &places, vec![nearest])?;
        Ok(places)
    }
}

impl Variant for PineAttention {
    named!();

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        let [batch, heads, length, depth] = ["B", "H", "L", "D"].map(|letter| problem.size(letter));
        let (starts, count) = (self.starts(), self.doc_lengths.len());
        let end = starts[count];
        if count == 0 || self.doc_lengths.contains(&0) || end > length {
            let expected = format!("lengths of 1 or more that end within L = {length}");
            return Err(problem.refuse(
                ErrorKind::Parameter,
                "doc_lengths",
                expected,
                format!("{:?}", self.doc_lengths),
            ));
        }
        if self.base <= 0.0 || !depth.is_multiple_of(2) {
            return Err(problem.refuse(ErrorKind::Parameter, "base", "a base above 0 and an even D", self.base));
        }
        let document = |i: usize| starts[..count].iter().rposition(|&start| start <= i && i < end);
        let group_of = |i: usize| document(i).unwrap_or((count + i).saturating_sub(end));
        let places = self.places(problem, plan, &group_of)?;

        let interleaved = self.layout == RopeLayout::Interleaved;
        let turn = Turn { first: 0, axis: 0, theta: frequencies(f64::from(self.base), depth), interleaved };
        let channel = plan.constant("channel", channels(problem, "base", depth, &[turn])?);
        let index = plan.constant("index", HostTensor::from_fn(&[1, 1, length, 1], |i| i as f32));
        // A row's own document comes last.
        let at = |i: usize| document(i).map_or(i, |t| end - self.doc_lengths[t] + i - starts[t]);
        let position = plan.constant("position", HostTensor::from_fn(&[1, 1, length, 1], |i| at(i) as f32));
        let group = table(plan, "group", &[1, 1, length, 1], group_of)?;
        let (q, k, v) = (plan.input("q")?, plan.input("k")?, plan.input("v")?);
        let k = turned(plan, "k_turned", &k, [&channel, &index], 1.0)?;
        let outs = scratch(plan, "outs", &[&[count + 1], &problem.shape("B H L Dv")?[..]].concat());
        let lses = scratch(plan, "lses", &[count + 1, batch, heads, length]);
        let scale = default_scale(self.scale, problem);

        let q_turned = turned(plan, "q_turned", &q, [&channel, &position], 1.0)?;
        let mut io = AttendIo::new(&q_turned, &k, &v, &outs.select(0, 0)).lse(&lses.select(0, 0));
        (io.row_start, io.row_end) = row_limits(plan, length, |i| if i < end { 0..0 } else { end..i + 1 })?;
        let op = Attend { causal: true, prefix: self.prefix, ..Attend::new(scale) };
        plan.attend("prefix and suffix", op, io, Vec::new())?;
        for (s, &first) in starts[..count].iter().enumerate() {
            let (keys, own) = (self.doc_lengths[s], document(first));
            let moved = scratch(plan, "moved", &[batch, heads, length, 1]);
            let by = hooks::displaced(&places, first, s, group.clone());
            plan.fold("move", Fold::each(), &position.broadcast(&moved.shape), &moved, vec![by])?;
            let q_moved = turned(plan, "q_moved", &q, [&channel, &moved], 1.0)?;
            let (k, v) = (k.narrow(2, first, keys), v.narrow(2, first, keys));
            let mut io = AttendIo::new(&q_moved, &k, &v, &outs.select(0, s + 1)).lse(&lses.select(0, s + 1));
            (io.row_start, io.row_end) = row_limits(plan, length, |i| match document(i) {
                _ if i < self.prefix => 0..0,
                of if of == own => 0..i + 1 - first,
                _ => 0..keys,
            })?;
            plan.attend(&format!("document {s}"), Attend::new(scale), io, Vec::new())?;
        }
        let out = plan.output("out")?;
        plan.merge(&outs, &lses, None, &out, None)
    }

    fn oracle(&self, inputs: &Inputs) -> Outputs {
        let [q, k, v] = inputs.qkv();
        let [batch, heads, length, depth] = q.shape[..] else { panic!("q has rank 4") };
        let (prefix, docs, factor) = (self.prefix, self.doc_lengths.len(), scale(self.scale, q));
        let total: usize = self.doc_lengths.iter().sum();
        let mut document = vec![None; prefix];
        (0..docs).for_each(|d| document.extend(vec![Some(d); self.doc_lengths[d]]));
        document.resize(length, None);
        let theta = theta_of(f64::from(self.base), depth);
        let pair = |c: usize| match self.layout {
            RopeLayout::Half => (c, c + depth / 2),
            RopeLayout::Interleaved => (2 * c, 2 * c + 1),
        };
        let mut order = Array::zeros(&[batch, heads, length - prefix, docs]);
        // Positions of all tokens as the row sees them.
        let mut seen = vec![Vec::new(); batch * heads * length];
        for (b, h, i) in (0..batch * heads * length).map(|n| (n / (heads * length), n / length % heads, n % length)) {
            let mut positions: Vec<usize> = (0..length).collect();
            if i >= prefix {
                let mut importance = vec![0.0; docs];
                for row in
                    (0..length).filter(|&row| row == i || (document[i].is_some() && document[row] == document[i]))
                {
                    let keys: Vec<usize> = (prefix..prefix + total)
                        .filter(|&j| document[i].is_none() || document[j] != document[i])
                        .collect();
                    let key = |j: usize| k.row(&[b, shared_head(h, heads, k), j]);
                    let s: Vec<f64> = keys.iter().map(|&j| factor * dot(q.row(&[b, h, row]), key(j))).collect();
                    let m = s.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
                    let sum: f64 = s.iter().map(|x| (x - m).exp()).sum();
                    for (j, x) in keys.iter().zip(&s) {
                        let d = document[*j].expect("a document");
                        importance[d] += (x - m).exp() / sum / self.doc_lengths[d] as f64;
                    }
                }
                if let Some(own) = document[i] {
                    importance[own] = f64::INFINITY;
                }
                let mut ranking: Vec<usize> = (0..docs).collect();
                ranking.sort_by(|&x, &y| importance[y].total_cmp(&importance[x]).then(x.cmp(&y)));
                let mut end = prefix + total;
                for (place, &d) in ranking.iter().enumerate() {
                    order.row_mut(&[b, h, i - prefix])[place] = d as f64;
                    end -= self.doc_lengths[d];
                    let tokens = (0..length).filter(|&j| document[j] == Some(d));
                    tokens.enumerate().for_each(|(offset, j)| positions[j] = end + offset);
                }
            }
            seen[(b * heads + h) * length + i] = positions;
        }
        let (out, _) = attention(q, k, v, factor, &|row, j, _| {
            let positions = &seen[(row.b * heads + row.h) * length + row.i];
            let visible = positions[j] <= positions[row.i] && (document[row.i].is_none() || j < prefix + total);
            let key = k.row(&[row.b, shared_head(row.h, heads, k), j]);
            let turn = |x: &[f64], token: usize| rotate(x, &theta, positions[token] as f64, pair);
            visible.then(|| factor * dot(&turn(q.row(&[row.b, row.h, row.i]), row.i), &turn(key, j)))
        });
        vec![("out", out), ("order", order)]
    }
}
