//! Ends of rows: merged chunks, sinks, lse and mass, and the outputs.

use super::keys::Block;
use super::setup::{QueryRow, Setup};
use super::worker::{State, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::TwinIo;
use std::f32::consts::LOG2_E;
use std::marker::PhantomData;

/// A slice of which threads write parts that do not overlap.
struct Shared<'a, T>(*mut T, usize, PhantomData<&'a mut [T]>);

// SAFETY: parts are handed out by `part`, whose callers promise that no two overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    fn new(data: &'a mut [T]) -> Self {
        Shared(data.as_mut_ptr(), data.len(), PhantomData)
    }

    /// # Safety
    /// Nobody else holds elements of `at..at + n`.
    #[expect(clippy::mut_from_ref, reason = "the point of the type")]
    unsafe fn part(&self, at: usize, n: usize) -> &mut [T] {
        assert!(at + n <= self.1);
        // SAFETY: inside the slice, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), n) }
    }
}

/// The outputs, contiguous: out (S, B, H, Lq, Dv), lse and mass (S, B, H, Lq).
pub(super) struct Outputs<'a> {
    out: Shared<'a, f32>,
    lse: Option<Shared<'a, f32>>,
    mass: Option<Shared<'a, f32>>,
}

impl<'a> Outputs<'a> {
    pub fn new(setup: &Setup, io: &mut TwinIo<'a>) -> Result<Self> {
        let rows = setup.splits() * setup.batch * setup.heads * setup.queries;
        let mut take = |role: &str, n: usize| match io.write_f32(role) {
            Some(data) if data.len() < n => {
                Err(Error::expected(ErrorKind::Shape, "attend", role, format!("{n} elements"), data.len()))
            }
            data => Ok(data.map(Shared::new)),
        };
        let (out, lse, mass) = (take("out", rows * setup.width)?, take("lse", rows)?, take("mass", rows)?);
        let out = out.ok_or_else(|| Error::new(ErrorKind::MissingInput, "attend: `out` is not bound"))?;
        Ok(Outputs { out, lse, mass })
    }
}

/// States and values of chunks, to be merged: a row each.
pub(super) struct Partials<'a> {
    states: Shared<'a, State>,
    values: Shared<'a, f32>,
    stride: usize,
}

impl<'a> Partials<'a> {
    pub fn new(states: &'a mut [State], values: &'a mut [f32], stride: usize) -> Self {
        Partials { states: Shared::new(states), values: Shared::new(values), stride }
    }
}

/// Factor of a row's values, and its other results.
struct Totals {
    factor: f32,
    lse: f32,
    mass: f32,
}

impl Worker<'_, '_> {
    /// Keeps the block's rows from row `at` on.
    ///
    /// # Safety
    /// Nobody else holds these rows.
    pub unsafe fn save(&mut self, partials: &Partials, at: usize) {
        let (count, stride) = (self.states.len(), partials.stride);
        // SAFETY: the caller's promise.
        let (states, values) =
            unsafe { (partials.states.part(at, count), partials.values.part(at * stride, count * stride)) };
        states.copy_from_slice(&self.states);
        values.copy_from_slice(self.out.row(0, count * stride));
    }

    /// The block's rows from `chunks` parts, `step` rows apart from row `at` on.
    ///
    /// # Safety
    /// Nobody else holds these rows.
    pub unsafe fn merge(&mut self, block: &Block, partials: &Partials, at: usize, chunks: usize, step: usize) {
        self.start(block);
        let stride = partials.stride;
        for r in 0..block.count {
            // SAFETY: the caller's promise.
            let state = |c: usize| unsafe { partials.states.part(at + c * step + r, 1)[0] };
            let top = (0..chunks).fold(State::EMPTY.top, |top, c| top.max(state(c).top));
            let out = self.out.row(r * stride, stride);
            let mut sum = 0.0;
            for c in 0..chunks {
                let factor = if self.setup.softmax() { (state(c).top - top).exp2() } else { 1.0 };
                sum += state(c).sum * factor;
                // SAFETY: as above.
                let values = unsafe { partials.values.part((at + c * step + r) * stride, stride) };
                out.iter_mut().zip(values).for_each(|(o, x)| *o += *x * factor);
            }
            self.states[r] = State { top, sum };
        }
    }

    /// Writes the block's rows.
    ///
    /// # Safety
    /// Nobody else holds them.
    pub unsafe fn finish(&mut self, block: &Block, outputs: &Outputs) {
        // SAFETY: the caller's promise, here and below.
        let spoilt = unsafe { self.write(block, outputs) };
        for r in spoilt {
            // In the products above 0 · NaN is NaN, which a key that the row does not see must not cause. Alone, a row skips
            // weights of 0. This is so rare that nothing else needs to look at values.
            let alone = Block { first: block.first + r, count: 1, ..*block };
            self.attend(&alone, 0, 1);
            unsafe { self.write(&alone, outputs) };
        }
    }

    /// Writes rows and returns those whose values are not finite though their weights are.
    unsafe fn write(&mut self, block: &Block, outputs: &Outputs) -> Vec<usize> {
        let (setup, stride) = (self.setup, self.out_stride());
        let mut spoilt = Vec::new();
        for r in 0..block.count {
            let row = self.rows[r];
            let totals = totals(setup, &row, self.states[r]);
            let at = ((block.split * setup.batch + block.batch) * setup.heads + row.head) * setup.queries + row.row;
            // SAFETY: rows of blocks do not overlap, and the caller holds this block's.
            unsafe {
                let out = outputs.out.part(at * setup.width, setup.width);
                if totals.factor == 0.0 {
                    out.fill(0.0);
                } else {
                    let mut finite = true;
                    for (to, &x) in out.iter_mut().zip(self.out.row(r * stride, setup.width).iter()) {
                        *to = x * totals.factor;
                        finite &= to.is_finite();
                    }
                    if !finite && totals.factor.is_finite() && block.count > 1 {
                        spoilt.push(r);
                    }
                }
                if let Some(lse) = &outputs.lse {
                    lse.part(at, 1)[0] = totals.lse;
                }
                if let Some(mass) = &outputs.mass {
                    mass.part(at, 1)[0] = totals.mass;
                }
            }
        }
        spoilt
    }
}

fn totals(setup: &Setup, row: &QueryRow, state: State) -> Totals {
    let sum = state.sum;
    if !setup.softmax() {
        return Totals { factor: 1.0, lse: f32::NEG_INFINITY, mass: sum };
    }
    if sum.is_nan() {
        return Totals { factor: sum, lse: sum, mass: sum };
    }
    // The inverse of the constant that scores were multiplied with, not ln 2: the row's exponents are exact in it.
    let top = if state.is_empty() { f64::NEG_INFINITY } else { f64::from(state.top) / f64::from(LOG2_E) };
    let logits = setup.sink.map_or(0, |t| t.layout.shape[3]);
    let sink = |n: usize| setup.sink.map_or(0.0, |t| t.get(&[0, row.head, 0, n]));
    let high = (0..logits).fold(top, |high, n| high.max(sink(n)));
    if high == f64::NEG_INFINITY {
        return Totals { factor: 0.0, lse: f32::NEG_INFINITY, mass: 0.0 };
    }
    let keep = if logits > 0 { (top - high).exp() } else { 1.0 };
    let total = f64::from(sum) * keep + (0..logits).map(|n| (sink(n) - high).exp()).sum::<f64>();
    let factor = (keep / total) as f32;
    Totals { factor, lse: (high + total.ln()) as f32, mass: sum * factor }
}
