//! Which tiles of queries and keys the kernels visit: counted from the bounds and lists that they read, by the arithmetic of their loops.

use super::super::{Attend, Keys};
use super::Cut;
use super::keys::Span;
use super::setup::Setup;
use super::worker::FEW;
use crate::error::Result;
use crate::kernel::TwinIo;
use crate::kernel::key::{Const, KernelKey};

/// Tiles that an attend stage visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visits {
    /// Rows of a tile, of packed heads where those share their keys.
    pub rows: usize,
    /// Keys of a tile.
    pub keys: usize,
    /// Tiles that are visited.
    pub visited: u64,
    /// Tiles that would be, if every row saw every key.
    pub dense: u64,
}

/// Those of the CPU's twin: a tile is what is packed at once.
pub(crate) fn of_twin(op: &Attend, io: &TwinIo) -> Result<Visits> {
    let setup = Setup::new(op, io)?;
    let cut = Cut::new(&setup);
    let (mut rows, mut runs) = (Vec::new(), Vec::new());
    let (mut visited, mut dense) = (0, 0);
    let tile = |few| setup.tile_keys(few);
    for n in 0..cut.pieces() {
        let block = cut.block(&setup, n);
        if block.count == 0 {
            continue;
        }
        let most = tile(block.count <= FEW);
        let tiles = |keys: usize| -> u64 {
            let part = |chunk: usize| keys * (chunk + 1) / cut.chunks - keys * chunk / cut.chunks;
            (0..cut.chunks).map(|chunk| part(chunk).div_ceil(most) as u64).sum()
        };
        block.rows(&setup, &mut rows);
        block.runs(&setup, &rows, &mut runs);
        visited += tiles(runs.iter().map(|run| run.len()).sum());
        dense += tiles(setup.part(block.split).len());
    }
    Ok(Visits { rows: cut.tile_rows, keys: tile(cut.tile_rows <= FEW), visited, dense })
}

/// Rows and keys of a tile of a kernel, where its loop is one of tiles.
pub(crate) fn tile_of(key: &KernelKey) -> Option<[usize; 2]> {
    let number = |name: &str| match key.consts.iter().find(|(n, _)| *n == name)?.1 {
        Const::U32(n) => Some(n as usize),
        Const::Bool(_) => None,
    };
    match key.entry {
        "attend/tile" => Some([8 * number("ROWS_EACH")?, key.workgroup as usize / 8 * number("KEYS_EACH")?]),
        "attend/matrix" => {
            let side = if key.imports.contains(&"attend/matrix_16") { 16 } else { 8 };
            Some([number("SUBGROUPS")? * number("ROW_TILES")? * side, side])
        }
        _ => None,
    }
}

/// Those of a GPU kernel with tiles of these rows and keys. `None` where keys are listed for every row or a prefix is always seen.
pub(crate) fn of_kernel(op: &Attend, io: &TwinIo, [tile_rows, tile_keys]: [usize; 2]) -> Result<Option<Visits>> {
    if matches!(op.keys, Keys::Tokens { .. }) || op.prefix > 0 {
        return Ok(None);
    }
    let setup = Setup::new(op, io)?;
    let rows = setup.pack * setup.block_rows;
    let (mut visited, mut dense) = (0, 0);
    let blocks = setup.queries.div_ceil(setup.block_rows);
    let workgroups = setup.splits() * setup.batch * (setup.heads / setup.pack) * blocks * rows.div_ceil(tile_rows);
    for n in 0..workgroups {
        let (first, rest) = (n % rows.div_ceil(tile_rows) * tile_rows, n / rows.div_ceil(tile_rows));
        let (block, rest) = (rest % blocks, rest / blocks);
        let (head, rest) = (rest % (setup.heads / setup.pack) * setup.pack, rest / (setup.heads / setup.pack));
        let (batch, split) = (rest % setup.batch, rest / setup.batch);
        let part = setup.part(split);
        // Rows that see nothing count with what their bounds say, as in the kernel.
        let (mut lo, mut hi) = (i64::from(i32::MAX), 0);
        for p in first..(first + tile_rows).min(rows) {
            let row = block * setup.block_rows + p / setup.pack;
            if row < setup.queries {
                let (_, from, end) = setup.bounds(batch, head + p % setup.pack, row);
                lo = lo.min(from.max(i64::from(part.lo)));
                hi = hi.max(end.min(i64::from(part.hi)));
            }
        }
        if hi == 0 && lo == i64::from(i32::MAX) {
            continue;
        }
        dense += part.len().div_ceil(tile_keys) as u64;
        visited += match op.keys {
            Keys::Range => ((hi - lo.max(0)).max(0) as usize).div_ceil(tile_keys) as u64,
            _ => listed(&setup, [batch, head / setup.list_group, block], tile_keys, lo, hi),
        };
    }
    Ok(Some(Visits { rows: tile_rows, keys: tile_keys, visited, dense }))
}

/// Key tiles that hold a part of a listed block between `lo` and `hi`.
fn listed(setup: &Setup, [batch, head, block]: [usize; 3], tile_keys: usize, lo: i64, hi: i64) -> u64 {
    let (Keys::Blocks { keys: size, .. }, Some(list)) = (setup.op.keys, setup.indices) else { return 0 };
    let (first, count) = match setup.indptr {
        Some(indptr) => {
            let at = |n: usize| indptr.get(&[batch, head, block + n]) as i64;
            (at(0).max(0) as usize, (at(1) - at(0)).clamp(0, list.layout.shape[2] as i64) as usize)
        }
        None => (0, list.layout.shape[3]),
    };
    let block_of = |entry: usize| match setup.indptr {
        Some(_) if first + entry >= list.layout.shape[2] => None,
        Some(_) => {
            let n = list.get(&[batch, head, first + entry]) as i64;
            (0 <= n && n < setup.keys.div_ceil(size) as i64).then_some(n)
        }
        None => (list.get(&[batch, head, block, entry]) != 0.0).then_some(entry as i64),
    };
    let seen = |slot: usize| {
        let end = (slot + tile_keys).min(count * size);
        (slot / size..end.div_ceil(size)).any(|entry| {
            let part = Span::of(slot.max(entry * size) as i64, end.min((entry + 1) * size) as i64);
            block_of(entry).is_some_and(|n| {
                let shift = (n - entry as i64) * size as i64;
                i64::from(part.lo) + shift < hi && i64::from(part.hi) + shift > lo
            })
        })
    };
    (0..count * size).step_by(tile_keys).filter(|&slot| seen(slot)).count() as u64
}

#[cfg(test)]
mod tests {
    /// `tile_of` repeats what the entries say of their tiles.
    #[test]
    fn tiles_are_those_of_the_entries() {
        let tile = include_str!("../../../../shaders/attend/tile.wgsl");
        let matrix = include_str!("../../../../shaders/attend/matrix.wgsl");
        for (text, line) in [
            (tile, "const TILE_Q: u32 = 8u * ROWS_EACH;"),
            (tile, "const COLUMNS: u32 = WORKGROUP / 8u;"),
            (tile, "const TILE_K: u32 = COLUMNS * KEYS_EACH;"),
            (matrix, "const ROWS: u32 = ROW_TILES * N;"),
            (matrix, "const TILE_Q: u32 = ROWS * SUBGROUPS;"),
            (matrix, "const TILE_K: u32 = N;"),
        ] {
            assert!(text.contains(line), "{line} is no more: `tile_of` must follow");
        }
    }
}
