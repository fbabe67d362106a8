//! `select.block_map`: which tiles of pairs the mask hooks of a stage leave, so that attention visits no empty tile and asks no mask in a full
//! one. It is of the family `select` because what it gives is what that family gives: the blocks of keys of every block of queries.

use crate::caps::Caps;
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{ArgRow, ArgValue, Row, Structure};
use crate::kernel::calls::{Arg, Call, calls};
use crate::kernel::key::{Launch, Point, ScalarType};
use crate::kernel::{Io, Kernel, LaunchBuilder, Role, TableMeta, TwinIo, for_each_row};
use crate::tensor::DType;

const WORKGROUP: u32 = 64;

/// Output `map` (B or 1, H or 1, ceil(Lq / queries), ceil(Lk / keys)) i32: 0 no pair of the tile is allowed, 1 some are, 2 all. Table
/// `lengths` as for [`Attend`](crate::kernel::attend::Attend). A map with one batch or head stands for all: then the hooks must not tell
/// them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMap {
    /// Queries of a tile.
    pub queries: usize,
    /// Keys of a tile.
    pub keys: usize,
    /// Lq and Lk.
    pub sizes: [usize; 2],
    /// What all mask hooks together hang on.
    pub structure: Structure,
    /// Query i is at i + Lk − Lq (else at i).
    pub bottom_right: bool,
}

impl Kernel for BlockMap {
    fn name(&self) -> &'static str {
        "select.block_map"
    }

    fn roles(&self) -> &'static [Role] {
        const ROLES: [Role; 1] = [Role::write("map", DType::I32)];
        &ROLES
    }

    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch> {
        let [batch, heads, lines, columns] = self.map(io)?;
        let tables = [("lengths", ScalarType::I32)];
        let segments = self.structure == Structure::Segments && self.lists(io);
        Ok(LaunchBuilder::new(self, "select/block_map", WORKGROUP, io, caps, &tables)
            .switch("DISTANCE", self.structure == Structure::Distance)
            .switch("SEGMENTS", segments)
            .constant("ROW_LIST", if segments { self.queries as u32 } else { 1 })
            .constant("KEY_LIST", if segments { self.keys as u32 } else { 1 })
            .switch("BOTTOM_RIGHT", self.bottom_right)
            .switch("HAS_LENGTHS", io.has_table("lengths"))
            .u32("queries", self.sizes[0])
            .u32("keys", self.sizes[1])
            .u32("block_rows", self.queries)
            .u32("block_keys", self.keys)
            .u32("map_heads", heads)
            .u32("map_lines", lines)
            .u32("map_columns", columns)
            .strides("map", 4)
            .groups(batch * heads * lines * columns))
    }

    fn twin(&self, io: &mut TwinIo) -> Result<()> {
        let [_, heads, lines, columns] = self.map(io.io)?;
        let masks = calls(io, self.name(), Point::Mask)?;
        let lengths = io
            .io
            .tables
            .iter()
            .position(|t| t.name == "lengths")
            .map(|at| (io.tables[at], &io.io.tables[at].meta.layout));
        let Some(map) = io.write_i32("map") else {
            return Err(Error::new(ErrorKind::Unsupported, "select.block_map: `map` is not a tensor of i32"));
        };
        let position = |batch: usize, row: usize| {
            let keys = self.sizes[1] as i64;
            let limit =
                lengths.map_or(keys, |(data, layout)| (data.get(layout.at(&[batch, 0, 0, 0])) as i64).clamp(0, keys));
            (row as i64 + if self.bottom_right { limit - self.sizes[0] as i64 } else { 0 }) as i32
        };
        let structure = self.confirmed(&masks);
        let ask = |unit: usize| Ask {
            masks: &masks,
            batch: unit / heads,
            head: unit % heads,
            allowed: Vec::new(),
            args: Vec::new(),
        };
        if structure == Structure::Distance {
            for_each_row(map, lines * columns, |unit, map| {
                self.by_distance(&mut ask(unit), position(unit / heads, 0), map, columns);
            });
            return Ok(());
        }
        let asked: Vec<Asked> = (0..map.len() / (lines * columns))
            .map(|unit| self.asked(&ask(unit), structure == Structure::Segments))
            .collect();
        for_each_row(map, columns, |n, line| {
            let unit = n / lines;
            self.by_pairs(&mut ask(unit), &asked[unit], &|row| position(unit / heads, row), n % lines, line);
        });
        Ok(())
    }

    fn flops(&self, _io: &Io) -> f64 {
        0.0
    }
}

/// The mask hooks at one batch and head.
struct Ask<'a, 's> {
    masks: &'s [Call<'a>],
    batch: usize,
    head: usize,
    allowed: Vec<bool>,
    args: Vec<ArgRow<'a>>,
}

impl Ask<'_, '_> {
    fn ask(&mut self, row: usize, query: i32, keys: &[i32]) -> &[bool] {
        self.allowed.clear();
        self.allowed.resize(keys.len(), true);
        let place = Row { batch: self.batch, head: self.head, row, query, keys };
        for call in self.masks {
            call.twin.mask(&mut self.allowed, &place, call.args([self.batch, self.head, row], &mut self.args));
        }
        &self.allowed
    }

    /// Whether an argument differs between two neighbours of an axis of the tables (2: queries, 3: keys).
    fn differs(&self, axis: usize, at: usize) -> bool {
        self.masks.iter().flat_map(|call| &call.args).any(|arg| match arg {
            Arg::Table(data, layout) if layout.strides[axis] != 0 => {
                let base = layout.at(&[self.batch, self.head, 0, 0]) + at * layout.strides[axis];
                data.get(base) != data.get(base - layout.strides[axis])
            }
            _ => false,
        })
    }
}

impl BlockMap {
    fn map(&self, io: &Io) -> Result<[usize; 4]> {
        let shape = &io.get("map").layout.shape;
        match shape[..] {
            [b, h, lines, columns]
                if lines == self.sizes[0].div_ceil(self.queries) && columns == self.sizes[1].div_ceil(self.keys) =>
            {
                Ok([b, h, lines, columns])
            }
            _ => {
                let expected = "(B, H, ceil(Lq / queries), ceil(Lk / keys))";
                Err(Error::expected(ErrorKind::Shape, "select.block_map", "map", expected, format!("{shape:?}")))
            }
        }
    }

    /// Whether the launch may ask the first of neighbours with the same arguments alone: every table of a hook runs along one axis, and the
    /// lists of a tile fit the workgroup memory of every device.
    fn lists(&self, io: &Io) -> bool {
        let looked_up =
            io.hooks.iter().flat_map(|hook| &hook.args).any(|arg| matches!(arg.value, ArgValue::Lookup(..)));
        let one_axis = |table: &TableMeta| matches!(table.meta.layout.strides[..], [.., 0, _] | [.., _, 0]);
        !looked_up && self.queries + self.keys <= 2048 && io.tables.iter().all(one_axis)
    }

    /// What was declared or derived, as far as the tables at hand bear it out.
    fn confirmed(&self, masks: &[Call]) -> Structure {
        let mut tables = masks.iter().flat_map(|call| &call.args).filter_map(|arg| match arg {
            Arg::Table(_, layout) => Some(&layout.strides),
            Arg::Number(_) | Arg::Whole(..) => None,
        });
        // What is looked up may depend on anything.
        let looked_up = masks.iter().flat_map(|call| &call.args).any(|arg| matches!(arg, Arg::Whole(..)));
        let fits = !looked_up
            && match self.structure {
                Structure::Pairs => false,
                Structure::Segments => tables.all(|s| s[2] == 0 || s[3] == 0),
                Structure::Distance => tables.all(|s| s[2] == 0 && s[3] == 0),
            };
        if fits { self.structure } else { Structure::Pairs }
    }

    /// Every distance is asked once; tiles count.
    fn by_distance(&self, ask: &mut Ask, origin: i32, map: &mut [i32], columns: usize) {
        let [queries, keys] = self.sizes.map(|n| n as i64);
        // Entry n is the pair of the first query and key n − (Lq − 1): distance origin + Lq − 1 − n.
        let line: Vec<i32> = (1 - queries..keys).map(|key| key as i32).collect();
        let mut before = vec![0usize];
        for &allowed in ask.ask(0, origin, &line) {
            before.push(before[before.len() - 1] + usize::from(allowed));
        }
        for (n, state) in map.iter_mut().enumerate() {
            let (row, key) = (n / columns * self.queries, n % columns * self.keys);
            let (last_row, last_key) =
                ((row + self.queries).min(self.sizes[0]) - 1, (key + self.keys).min(self.sizes[1]) - 1);
            // Pair (i, j) is entry j − i + Lq − 1.
            let (from, to) = (key + self.sizes[0] - 1 - last_row, last_key + self.sizes[0] - row);
            *state = match before[to] - before[from] {
                0 => 0,
                count if count == to - from => 2,
                _ => 1,
            };
        }
    }

    /// The queries and keys that are asked: with segments only the first of neighbours whose arguments are the same.
    fn asked(&self, ask: &Ask, segments: bool) -> Asked {
        let begins =
            |axis: usize, at: usize, tile: usize| !segments || at.is_multiple_of(tile) || ask.differs(axis, at);
        Asked {
            rows: (0..self.sizes[0]).filter(|&row| begins(2, row, self.queries)).collect(),
            keys: (0..self.sizes[1]).filter(|&key| begins(3, key, self.keys)).map(|key| key as i32).collect(),
        }
    }

    /// The tiles of one block of queries; pairs are asked until a tile is known to be mixed.
    fn by_pairs(&self, ask: &mut Ask, asked: &Asked, position: &dyn Fn(usize) -> i32, line: usize, states: &mut [i32]) {
        let within = |first: usize, size: usize, at: &dyn Fn(usize) -> usize| at(first)..at(first + size);
        let rows = within(line * self.queries, self.queries, &|x| asked.rows.partition_point(|&row| row < x));
        for (column, state) in states.iter_mut().enumerate() {
            let find = |x: usize| asked.keys.partition_point(|&key| (key as usize) < x);
            let keys = &asked.keys[within(column * self.keys, self.keys, &find)];
            let (mut some, mut all) = (false, true);
            for &row in &asked.rows[rows.clone()] {
                let allowed = ask.ask(row, position(row), keys);
                some |= allowed.contains(&true);
                all &= !allowed.contains(&false);
                if some && !all {
                    break;
                }
            }
            *state = if all { 2 } else { i32::from(some) };
        }
    }
}

/// Queries and keys, ascending.
struct Asked {
    rows: Vec<usize>,
    keys: Vec<i32>,
}
