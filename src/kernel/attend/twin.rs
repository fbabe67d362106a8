//! The twin of `attend/tile`: the same attention on the CPU, in f32.
//!
//! Rows are cut into blocks as on the GPU (a KV head's query heads packed together), blocks into tiles of rows, and where that gives
//! few pieces of work the keys are cut too and merged afterwards. Every piece runs in [`worker`] on the vectors of [`simd`]. The cut
//! depends on the sizes alone, so that results repeat bit by bit whatever the number of threads.

mod finish;
mod keys;
mod memory;
mod setup;
mod simd;
#[cfg(test)]
mod tests;
pub(super) mod visits;
mod worker;

use super::{Attend, Keys};
use crate::error::Result;
use crate::kernel::TwinIo;
use finish::{Outputs, Partials};
use keys::Block;
use setup::Setup;
use simd::Kernels;
use std::sync::atomic::{AtomicUsize, Ordering};
use worker::{State, Worker};

/// Rows of a tile: packing a key costs about as much as two rows' work on it.
const TILE_ROWS: usize = 128;
const LEAST_ROWS: usize = 64;
/// Pieces that the work is cut into at least, and the fewest keys of a piece.
const PIECES: usize = 32;
const LEAST_KEYS: usize = 256;
/// Multiply-adds below which threads cost more than they save.
const SMALL: usize = 200_000;

pub(super) fn twin(op: &Attend, io: &mut TwinIo) -> Result<()> {
    run(op, io, simd::kernels())
}

fn run(op: &Attend, io: &mut TwinIo, kernels: &'static Kernels) -> Result<()> {
    let setup = Setup::new(op, io)?;
    let outputs = Outputs::new(&setup, io)?;
    let cut = Cut::new(&setup);
    let threads = if cut.multiply_adds < SMALL { 1 } else { threads() };
    let worker = || Worker::new(&setup, kernels);
    if cut.chunks == 1 {
        for_each(cut.pieces(), threads, worker, |worker, n| {
            let block = cut.block(&setup, n);
            worker.attend(&block, 0, 1);
            // SAFETY: a row belongs to one piece, and a piece to one thread.
            unsafe { worker.finish(&block, &outputs) };
        });
        return Ok(());
    }
    let (parts, stride) = (cut.pieces() * cut.chunks, kernels.padded(setup.width));
    let mut states = vec![State::EMPTY; parts * cut.tile_rows];
    let mut values = vec![0.0; states.len() * stride];
    let partials = Partials::new(&mut states, &mut values, stride);
    for_each(parts, threads, worker, |worker, n| {
        worker.attend(&cut.block(&setup, n / cut.chunks), n % cut.chunks, cut.chunks);
        // SAFETY: every part has rows of its own, and one thread.
        unsafe { worker.save(&partials, n * cut.tile_rows) };
    });
    for_each(cut.pieces(), threads, worker, |worker, n| {
        let block = cut.block(&setup, n);
        // SAFETY: as above; the parts of a piece lie side by side.
        unsafe {
            worker.merge(&block, &partials, n * cut.chunks * cut.tile_rows, cut.chunks, cut.tile_rows);
            worker.finish(&block, &outputs);
        }
    });
    Ok(())
}

/// How a call is cut into pieces: (split, batch, heads, block of queries, tile of rows), and each into chunks of keys.
struct Cut {
    units: usize,
    head_blocks: usize,
    row_blocks: usize,
    tiles: usize,
    tile_rows: usize,
    chunks: usize,
    multiply_adds: usize,
}

impl Cut {
    fn new(setup: &Setup) -> Self {
        let rows = setup.pack * setup.block_rows;
        let head_blocks = setup.heads / setup.pack;
        let row_blocks = setup.queries.div_ceil(setup.block_rows);
        let units = setup.splits() * setup.batch * head_blocks;
        let mut tile_rows = rows.min(TILE_ROWS);
        while tile_rows > LEAST_ROWS && units * row_blocks * rows.div_ceil(tile_rows) < PIECES {
            tile_rows = (tile_rows / 2).max(LEAST_ROWS);
        }
        let tiles = rows.div_ceil(tile_rows.max(1));
        let keys = match (setup.op.keys, setup.indices) {
            (Keys::Tokens { block }, Some(list)) => list.layout.shape[3] * block,
            _ => setup.keys.div_ceil(setup.splits()),
        };
        let pieces = units * row_blocks * tiles;
        let chunks = PIECES.div_ceil(pieces.max(1)).min(keys / LEAST_KEYS).max(1);
        let multiply_adds = [units * setup.pack, setup.queries, keys, setup.depth + setup.width];
        let multiply_adds = multiply_adds.iter().fold(1usize, |a, &b| a.saturating_mul(b));
        Cut { units, head_blocks, row_blocks, tiles, tile_rows, chunks, multiply_adds }
    }

    fn pieces(&self) -> usize {
        self.units * self.row_blocks * self.tiles
    }

    fn block(&self, setup: &Setup, n: usize) -> Block {
        // The last rows of causal attention have the most keys: they start first.
        let count = self.tiles * self.row_blocks;
        let (unit, tile) = (n / count, count - 1 - n % count);
        let (block, tile) = (tile / self.tiles, tile % self.tiles);
        let query = block * setup.block_rows;
        let rows = setup.pack * setup.block_rows.min(setup.queries - query);
        let first = (tile * self.tile_rows).min(rows);
        Block {
            split: unit / self.head_blocks / setup.batch,
            batch: unit / self.head_blocks % setup.batch,
            head: unit % self.head_blocks * setup.pack,
            query,
            block,
            first,
            count: (rows - first).min(self.tile_rows),
        }
    }
}

fn threads() -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    return rayon::current_num_threads();
    #[cfg(target_arch = "wasm32")]
    1
}

/// `body` for 0..count in order, each taken by the next free thread; `start` makes a thread's own memory.
fn for_each<T>(count: usize, threads: usize, start: impl Fn() -> T + Sync, body: impl Fn(&mut T, usize) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut own = None;
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            body(own.get_or_insert_with(&start), n);
        }
    };
    #[cfg(not(target_arch = "wasm32"))]
    if threads.min(count) > 1 {
        rayon::scope(|scope| {
            for _ in 1..threads.min(count) {
                scope.spawn(|_| work());
            }
            work();
        });
        return;
    }
    let _ = threads;
    work();
}
