//! One thread's work: a block of rows over some of its keys, with a streaming normaliser.
//!
//! Many rows: a tile of keys is packed into panels once and every few rows run three loops over it (scores, weights, values) while
//! their scores lie in the first cache. Few rows: the same loops read K and V where they lie, since packing would cost as much as the
//! work itself. Exponents are in base 2: `top` holds the row maximum times log2 e, rounded, and everything of a row is relative to it.

use super::keys::{Block, Span, Tile};
use super::memory::{Aligned, Rows, addresses, convert};
use super::setup::{QueryRow, Setup};
use super::simd::{Ahead, Dots, Gathered, Kernels, Product};
use crate::hook::{ArgRow, Row};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// The score of a masked pair, and the bound below which a score counts as masked: those of the shader.
const MASKED: f32 = -1e30;
const SEEN: f32 = -5e29;
/// Up to so many rows K and V are not packed.
pub(super) const FEW: usize = 8;
/// Rows asked for ahead at a time, and the most bytes of them: more than the machine tracks at once only hold up other reads.
const AHEAD: usize = 3;
const AHEAD_BYTES: usize = 1536;
/// Rows of V between two requests for keys.
const GATHERED: usize = 16;

/// What became of a row: `top`, the sum of its weights, and beside them its values in `Worker::out`.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub top: f32,
    pub sum: f32,
}

impl State {
    pub const EMPTY: State = State { top: MASKED * LOG2_E, sum: 0.0 };

    pub fn is_empty(self) -> bool {
        self.top <= SEEN * LOG2_E
    }
}

pub(super) struct Worker<'a, 's> {
    pub setup: &'s Setup<'a>,
    pub kernels: &'static Kernels,
    pub rows: Vec<QueryRow>,
    pub states: Vec<State>,
    /// [rows, out_stride], not yet divided by the sums.
    pub out: Aligned,
    runs: Vec<Span>,
    tiles: [Tile; 2],
    query: Aligned,
    keys: Aligned,
    values: Aligned,
    scores: Aligned,
    pointers: Rows,
    /// Addresses of rows of K and V that come next.
    next: [Vec<*const u8>; 2],
    /// What the mask hooks say of the tile, [rows, keys], and the slots of each row around what they allow; empty where they allow all.
    allowed: Vec<bool>,
    spans: Vec<Span>,
    args: Vec<ArgRow<'a>>,
}

impl<'a, 's> Worker<'a, 's> {
    pub fn new(setup: &'s Setup<'a>, kernels: &'static Kernels) -> Self {
        Worker {
            setup,
            kernels,
            rows: Vec::new(),
            states: Vec::new(),
            out: Aligned::default(),
            runs: Vec::new(),
            tiles: Default::default(),
            query: Aligned::default(),
            keys: Aligned::default(),
            values: Aligned::default(),
            scores: Aligned::default(),
            pointers: Rows::default(),
            next: Default::default(),
            allowed: Vec::new(),
            spans: Vec::new(),
            args: Vec::new(),
        }
    }

    /// Elements between rows of `out`.
    pub fn out_stride(&self) -> usize {
        self.kernels.padded(self.setup.width)
    }

    /// Empty states and zero values for the rows of a block.
    pub fn start(&mut self, block: &Block) {
        block.rows(self.setup, &mut self.rows);
        self.states.clear();
        self.states.resize(block.count, State::EMPTY);
        // A panel may be taller than what is left of the rows.
        let n = (block.count + self.kernels.rows[0]) * self.out_stride();
        self.out.reserve(n);
        self.out.row(0, n).fill(0.0);
    }

    /// The rows of a block over part `chunk` of `chunks` of their keys.
    pub fn attend(&mut self, block: &Block, chunk: usize, chunks: usize) {
        let setup = self.setup;
        self.start(block);
        block.runs(self.setup, &self.rows, &mut self.runs);
        let total: usize = self.runs.iter().map(|r| r.len()).sum();
        let (first, end) = (total * chunk / chunks, total * (chunk + 1) / chunks);
        if first == end {
            return;
        }
        self.load_queries(block);
        let (mut at, mut skip) = ((0, 0), first);
        while skip > 0 && skip >= self.runs[at.0].len() {
            skip -= self.runs[at.0].len();
            at.0 += 1;
        }
        at.1 = skip;
        let few = block.count <= FEW;
        let most = setup.tile_keys(few);
        let stride = self.kernels.padded(most);
        self.scores.reserve(if few { FEW } else { self.kernels.rows[0] } * stride);
        let mut left = end - first;
        let [mut tile, mut next] = std::mem::take(&mut self.tiles);
        tile.fill(&self.runs, &mut at, &mut left, most);
        while !tile.keys.is_empty() {
            next.fill(&self.runs, &mut at, &mut left, most);
            self.ask(block, &tile);
            if few {
                self.stream(block, &tile, &next, stride);
            } else {
                self.multiply(block, &tile, &next, stride);
            }
            std::mem::swap(&mut tile, &mut next);
        }
        self.tiles = [tile, next];
    }

    /// Asks the mask hooks of a tile before its scores are computed, so that those around what a few rows see are not: documents and windows
    /// given as code leave each row one short range of a tile.
    fn ask(&mut self, block: &Block, tile: &Tile) {
        let setup = self.setup;
        self.allowed.clear();
        self.spans.clear();
        if setup.mask.is_empty() || block.unmasked(setup, &tile.keys) {
            return;
        }
        let count = tile.keys.len();
        self.allowed.resize(self.rows.len() * count, false);
        let mut before = Span::default();
        for (r, row) in self.rows.iter().enumerate() {
            let slots = tile.slots(std::slice::from_ref(row));
            let at = [block.batch, row.head, row.row];
            let last = r.checked_sub(1).map(|n| self.rows[n]);
            let same = |last: QueryRow| {
                last.head == row.head && before == slots && setup.mask.iter().all(|call| call.same(at, last.row))
            };
            if last.is_some_and(same) {
                self.allowed.copy_within((r - 1) * count..r * count, r * count);
                self.spans.push(self.spans[r - 1]);
                continue;
            }
            before = slots;
            let keys = &tile.keys[slots.lo as usize..slots.hi as usize];
            let allowed = &mut self.allowed[r * count + slots.lo as usize..][..keys.len()];
            allowed.fill(true);
            let place = Row { batch: block.batch, head: row.head, row: row.row, query: row.query, keys };
            for call in &setup.mask {
                call.twin.mask(allowed, &place, call.args(at, &mut self.args));
            }
            let first = allowed.iter().position(|a| *a).unwrap_or(allowed.len()) as i32;
            let end = allowed.iter().rposition(|a| *a).map_or(first, |n| n as i32 + 1);
            self.spans.push(Span::of(i64::from(slots.lo + first), i64::from(slots.lo + end)));
        }
    }

    /// The slots around what some rows see of a tile.
    fn slots(&self, tile: &Tile, rows: Range<usize>) -> Span {
        if self.spans.is_empty() {
            return tile.slots(&self.rows[rows]);
        }
        self.spans[rows].iter().fold(Span::default(), |hull, &span| hull.hull(span))
    }

    /// The rows of q times the scale, zeros after them.
    fn load_queries(&mut self, block: &Block) {
        let setup = self.setup;
        let depth = setup.depth;
        let n = (block.count + self.kernels.rows[0]) * depth;
        self.query.reserve(n);
        self.query.row(block.count * depth, self.kernels.rows[0] * depth).fill(0.0);
        for (r, row) in self.rows.iter().enumerate() {
            let to = self.query.row(r * depth, depth);
            if depth > 0 {
                convert(self.kernels, &setup.q, setup.q.layout.at(&[block.batch, row.head, row.row, 0]), to);
            }
            to.iter_mut().for_each(|x| *x *= setup.op.scale);
        }
    }

    /// Many rows: K transposed and V in panels, then a few rows at a time.
    fn multiply(&mut self, block: &Block, tile: &Tile, next: &Tile, stride: usize) {
        let (setup, kernels) = (self.setup, self.kernels);
        let (depth, width, out_stride) = (setup.depth, setup.width, self.out_stride());
        let count = tile.keys.len();
        let padded = kernels.padded(count);
        let head = setup.kv_head(block.head);
        self.keys.reserve(padded * depth);
        self.values.reserve(count * out_stride);
        self.pointers.take(kernels, &setup.k, block.batch, head, &tile.keys);
        // Slots that pad the last vector repeat a key; their scores are masked.
        self.pointers.pointers.resize(padded, self.pointers.pointers[count - 1]);
        // SAFETY: the pointers are rows of `depth`, `padded` of them, and `keys` holds as much.
        unsafe { (kernels.pack_transposed)(self.pointers.pointers.as_ptr(), padded, depth, self.keys.pointer()) };
        self.pointers.take(kernels, &setup.v, block.batch, head, &tile.keys);
        // SAFETY: as above with `width`, padded to whole vectors.
        unsafe { (kernels.pack)(self.pointers.pointers.as_ptr(), count, width, self.values.pointer(), count) };

        // Spread over all products of the tile.
        let panels = block.count.div_ceil(kernels.rows[0]);
        let spread = |calls: usize| next.keys.len().div_ceil((panels * calls).max(1));
        let mut keys_ahead = self.ahead(0, block, &next.keys, spread(padded / kernels.panel));
        let mut values_ahead = self.ahead(1, block, &next.keys, spread(out_stride / kernels.panel));
        let mut first = 0;
        while first < block.count {
            let left = block.count - first;
            let rows = *kernels.rows.iter().rev().find(|&&m| m >= left).unwrap_or(&kernels.rows[0]);
            let some = first..(first + rows).min(block.count);
            let slots = self.slots(tile, some.clone());
            if !slots.is_empty() {
                let from = slots.lo as usize / kernels.panel * kernels.panel;
                let end = kernels.padded(slots.hi as usize);
                // SAFETY: q and out have rows[0] rows more than the block, scores has rows[0] rows of `stride` >= `end`, and the
                // panels are those packed above.
                unsafe {
                    let product = Product {
                        a: self.query.pointer().add(first * depth),
                        a_stride: depth,
                        b: self.keys.pointer().add(from * depth),
                        b_rows: depth,
                        b_columns: padded - from,
                        b_first: 0,
                        depth,
                        columns: end - from,
                        c: self.scores.pointer().add(from),
                        c_stride: stride,
                        add: false,
                        ahead: &mut keys_ahead,
                    };
                    (kernels.multiply)(&product, rows);
                    for r in some {
                        self.weigh(block, tile, r, slots, (r - first) * stride);
                    }
                    let product = Product {
                        a: self.scores.pointer().add(slots.lo as usize),
                        a_stride: stride,
                        b: self.values.pointer(),
                        b_rows: count,
                        b_columns: out_stride,
                        b_first: slots.lo as usize,
                        depth: slots.len(),
                        columns: out_stride,
                        c: self.out.pointer().add(first * out_stride),
                        c_stride: out_stride,
                        add: true,
                        ahead: &mut values_ahead,
                    };
                    (kernels.multiply)(&product, rows);
                }
            }
            first += rows;
        }
    }

    /// Rows of K (0) or V (1) to ask for, `each` at a time.
    fn ahead(&mut self, which: usize, block: &Block, keys: &[i32], each: usize) -> Ahead {
        let source = if which == 0 { &self.setup.k } else { &self.setup.v };
        let rows = &mut self.next[which];
        let bytes = addresses(source, block.batch, self.setup.kv_head(block.head), keys, rows);
        let each = each.min(AHEAD_BYTES / bytes.max(1)).max(1);
        Ahead { rows: rows.as_ptr(), count: rows.len(), bytes, each }
    }

    /// Few rows: K and V are read in place.
    fn stream(&mut self, block: &Block, tile: &Tile, next: &Tile, stride: usize) {
        let (setup, kernels) = (self.setup, self.kernels);
        let slots = self.slots(tile, 0..block.count);
        if slots.is_empty() {
            return;
        }
        let (from, out_stride) = (slots.lo as usize, self.out_stride());
        let head = setup.kv_head(block.head);
        let keys = &tile.keys[from..slots.hi as usize];
        self.pointers.take(kernels, &setup.k, block.batch, head, keys);
        let mut ahead = self.ahead(1, block, keys, AHEAD);
        let dots = Dots {
            a: self.query.pointer(),
            a_stride: setup.depth,
            b: self.pointers.pointers.as_ptr(),
            count: keys.len(),
            depth: setup.depth,
            // SAFETY: scores has FEW rows of `stride` slots.
            c: unsafe { self.scores.pointer().add(from) },
            c_stride: stride,
            ahead: &mut ahead,
        };
        // SAFETY: the pointers are rows of `depth`.
        unsafe { (kernels.dots)(&dots, block.count) };
        for r in 0..block.count {
            self.weigh(block, tile, r, slots, r * stride);
        }
        self.pointers.take(kernels, &setup.v, block.batch, head, keys);
        let mut ahead = self.ahead(0, block, &next.keys, 1);
        for some in (0..keys.len()).step_by(GATHERED) {
            let product = Gathered {
                // SAFETY: as for `dots`, and `some` is below the number of pointers.
                a: unsafe { self.scores.pointer().add(from + some) },
                a_stride: stride,
                // SAFETY: likewise.
                b: unsafe { self.pointers.pointers.as_ptr().add(some) },
                depth: GATHERED.min(keys.len() - some),
                columns: setup.width,
                c: self.out.pointer(),
                c_stride: out_stride,
                ahead: &mut ahead,
            };
            // SAFETY: the pointers are rows of `width`; out has the block's rows.
            unsafe { (kernels.gather)(&product, block.count) };
        }
    }

    /// Scores of row `r` become weights: hooks, mask, and for softmax the running maximum and sum. The scores of slot 0 are at `base`.
    fn weigh(&mut self, block: &Block, tile: &Tile, r: usize, slots: Span, base: usize) {
        let (setup, kernels) = (self.setup, self.kernels);
        let softmax = setup.softmax();
        let masked = if softmax { MASKED } else { 0.0 };
        let row = self.rows[r];
        let (lo, hi) = (slots.lo as usize, slots.hi as usize);
        let (from, end) = (lo / kernels.lanes * kernels.lanes, kernels.padded(hi));
        self.scores.row(base + from, lo - from).fill(masked);
        self.scores.row(base + hi, end - hi).fill(masked);

        let keys = &tile.keys[lo..hi];
        let at = [block.batch, row.head, row.row];
        let place = Row { batch: block.batch, head: row.head, row: row.row, query: row.query, keys };
        let scores = self.scores.row(base + lo, hi - lo);
        for call in setup.score.iter().chain(if softmax { &[][..] } else { &setup.weight }) {
            call.twin.score(scores, &place, call.args(at, &mut self.args));
        }
        if !tile.seen(&row, slots) {
            tile.hide(&row, slots, scores, masked);
        }
        if !self.spans.is_empty() {
            let allowed = &self.allowed[r * tile.keys.len()..][lo..hi];
            for (score, &allowed) in scores.iter_mut().zip(allowed) {
                *score = if allowed { *score } else { masked };
            }
        }

        let scores = self.scores.row(base + from, end - from);
        let state = &mut self.states[r];
        let (data, n) = (scores.as_mut_ptr(), scores.len());
        if !softmax {
            // SAFETY: from and end are multiples of the lanes.
            state.sum += unsafe { (kernels.sum)(data, n) };
            return;
        }
        // SAFETY: as above.
        let high = unsafe { (kernels.max)(data, n) };
        if high <= SEEN {
            // The maximum may have passed over NaN.
            if scores.iter().any(|x| x.is_nan()) {
                state.sum = f32::NAN;
            }
            scores.fill(0.0);
            return;
        }
        let top = state.top.max(high * LOG2_E);
        if top > state.top {
            if !state.is_empty() {
                let factor = (state.top - top).exp2();
                state.sum *= factor;
                let stride = kernels.padded(setup.width);
                let out = self.out.row(r * stride, stride);
                // SAFETY: the stride is a multiple of the lanes.
                unsafe { (kernels.scale)(out.as_mut_ptr(), stride, factor) };
            }
            state.top = top;
        }
        // SAFETY: as above.
        state.sum += unsafe { (kernels.exp2)(data, n, top) };
    }
}
