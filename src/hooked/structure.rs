//! The structure of mask rules given as code: bounds of the attend stage where a rule is a window, else a block map.

use super::intervals::intervals;
use crate::error::Result;
use crate::hook::{ArgRow, ArgValue, Hook, Row, Structure, Twin};
use crate::kernel::Op;
use crate::kernel::attend::{Attend, Keys};
use crate::kernel::key::{Point, ScalarType};
use crate::kernel::select::BlockMap;
use crate::plan::{PlanBuilder, Ref, Stage};
use crate::tensor::DType;
pub(super) use crate::user_hook::Sizes;

/// Tiles of the map: the rows of a matrix tile, and keys that every kernel's tile divides.
const QUERIES: usize = 128;
const KEYS: usize = 64;
/// Widths of f16 rows whose matrix tile is twice as tall: a tile does not go beyond a block, and half a tile takes as long as a whole one.
const TALL: std::ops::RangeInclusive<usize> = 65..=128;
/// Below so many queries a step reads its keys once anyway, and kernels for few rows take no lists.
pub(super) const LEAST_QUERIES: usize = 32;

/// Turns the users' masks of stage `n` into bounds or a block map, where that skips work.
pub(super) fn structure(plan: &mut PlanBuilder, n: usize, sizes: Sizes) -> Result<()> {
    windows(plan, n, sizes);
    intervals(plan, n, sizes)?;
    let stage = plan.stages_mut()[n].clone();
    let masks: Vec<Hook> = stage.hooks.iter().filter(|h| h.point == Point::Mask).cloned().collect();
    if !masks.iter().any(Hook::is_user) {
        return Ok(());
    }
    let Op::Attend(op) = stage.op else { return Ok(()) };
    let [_, _, queries, keys] = sizes;
    let why_not = match op {
        Attend { keys: keys @ (Keys::Blocks { .. } | Keys::Tokens { .. }), .. } => {
            Some(format!("{keys:?} are listed already"))
        }
        _ if queries < LEAST_QUERIES => Some(format!("{queries} queries are too few")),
        Attend { splits: 2.., .. } => Some("the keys are split".to_owned()),
        _ if queries <= QUERIES && keys <= KEYS => Some("there is one tile".to_owned()),
        _ => None,
    };
    if let Some(why) = why_not {
        plan.note(format!("{}: no block map: {why}", stage.label));
        return Ok(());
    }
    map(plan, n, &stage, op, masks, sizes)
}

/// Masks that are a window of distances become bounds of the operation, which cost nothing.
fn windows(plan: &mut PlanBuilder, n: usize, [_, _, queries, keys]: Sizes) {
    let mut notes = Vec::new();
    let stage = &mut plan.stages_mut()[n];
    let Op::Attend(op) = &mut stage.op else { return };
    // The prefix is seen whatever the window says, but not whatever a mask says.
    if op.prefix > 0 {
        return;
    }
    stage.hooks.retain(|hook| {
        let Some((low, high)) = window(hook, queries + keys) else { return true };
        // Distances query − key from low to high; a window holds the query's own place.
        if low.is_some_and(|low| low > 0) || high.is_some_and(|high| high < 0) {
            return true;
        }
        let least = |old: Option<usize>, new: usize| Some(old.map_or(new, |old| old.min(new)));
        match low {
            Some(0) => op.causal = true,
            Some(low) => op.window_right = least(op.window_right, -low as usize),
            None => {}
        }
        if let Some(high) = high {
            op.window_left = least(op.window_left, high as usize);
        }
        let bound = |x: Option<i32>, none: &str| x.map_or(none.to_owned(), |x| x.to_string());
        notes.push(format!(
            "{}: the mask `{}` is query - key in {} .. {}: bounds of the stage, not asked",
            stage.label,
            hook.name,
            bound(low, "-inf"),
            bound(high, "inf"),
        ));
        false
    });
    notes.into_iter().for_each(|note| plan.note(note));
}

/// The least and the largest distance that a mask allows, if it is one range of distances for all heads; `None` in it is no bound.
fn window(hook: &Hook, reach: usize) -> Option<(Option<i32>, Option<i32>)> {
    let Twin::Program(program) = &hook.twin else { return None };
    let depends = program.depends();
    if hook.point != Point::Mask || hook.structure != Structure::Distance || depends.head() || depends.batch() {
        return None;
    }
    let number = |value: &ArgValue| match value {
        ArgValue::F32(x) => Some(f64::from(*x)),
        ArgValue::I32(x) => Some(f64::from(*x)),
        ArgValue::U32(x) => Some(f64::from(*x)),
        ArgValue::Table(..) | ArgValue::Lookup(..) => None,
    };
    let args: Vec<ArgRow> =
        hook.args.iter().map(|arg| number(&arg.value).map(ArgRow::Number)).collect::<Option<_>>()?;
    let reach = i32::try_from(reach).ok().filter(|n| *n < 1 << 29)?;
    // Entry n is distance n - reach.
    let keys: Vec<i32> = (-reach..=reach).rev().collect();
    let mut allowed = vec![true; keys.len()];
    hook.twin.mask(&mut allowed, &Row { batch: 0, head: 0, row: 0, query: 0, keys: &keys }, &args);
    let first = allowed.iter().position(|a| *a)?;
    let last = allowed.iter().rposition(|a| *a)?;
    if !allowed[first..=last].iter().all(|a| *a) {
        return None;
    }
    let at = |n: usize| n as i32 - reach;
    Some(((first > 0).then(|| at(first)), (last + 1 < allowed.len()).then(|| at(last))))
}

/// Query heads of a KV head: their rows fill a tile together where they share a map.
fn shared(stage: &Stage) -> usize {
    let heads = |role: &str| stage.bindings.iter().find(|(name, _)| *name == role).map_or(1, |(_, r)| r.shape[1]);
    heads("q") / heads("k").max(1)
}

/// Rows of a tile of the map where one head has it for itself.
fn tall(stage: &Stage) -> usize {
    let all = |test: &dyn Fn(&Ref) -> bool| {
        stage.bindings.iter().filter(|(name, _)| matches!(*name, "q" | "k" | "v")).all(|(_, r)| test(r))
    };
    let wide = !all(&|r| r.shape[3] < *TALL.start()) && all(&|r| r.shape[3] <= *TALL.end());
    if wide && all(&|r| r.dtype == DType::F16) { 2 * QUERIES } else { QUERIES }
}

fn map(plan: &mut PlanBuilder, n: usize, stage: &Stage, op: Attend, masks: Vec<Hook>, sizes: Sizes) -> Result<()> {
    let [batch, heads, queries, keys] = sizes;
    let structure =
        if masks.iter().all(|h| h.structure == masks[0].structure) { masks[0].structure } else { Structure::Pairs };
    let lengths = stage.tables.iter().find(|(name, ..)| *name == "lengths").cloned();
    // What no mask tells apart shares a map.
    let tells = |axis: usize, of: &dyn Fn(&Hook) -> bool| {
        masks.iter().any(|hook| {
            let tables = hook.args.iter().any(|arg| arg.value.tensor().is_some_and(|(r, _)| r.shape[axis] != 1));
            tables || of(hook)
        })
    };
    let by_head = tells(1, &|hook| match &hook.twin {
        Twin::Program(program) => program.depends().head(),
        // Hooks of ours tell heads and batches apart by tables alone.
        _ => false,
    });
    let by_batch = lengths.is_some()
        || tells(0, &|hook| match &hook.twin {
            Twin::Program(program) => program.depends().batch(),
            _ => false,
        });
    let rows = if by_head || shared(stage) == 1 { tall(stage) } else { QUERIES };
    let (lines, columns) = (queries.div_ceil(rows), keys.div_ceil(KEYS));
    let lead = |r: Ref, there: bool, axis: usize| if there { r } else { r.insert(axis) };
    let shape: Vec<usize> = [by_batch.then_some(batch), by_head.then_some(heads), Some(lines), Some(columns)]
        .into_iter()
        .flatten()
        .collect();
    let scratch = plan.scratch("block_map", DType::I32, &shape);
    // An axis of size 1 has stride 0, so that any batch or head reads it.
    let map = lead(scratch, by_batch, 0);
    let map = lead(map, by_head, 1);
    let block_map =
        BlockMap { queries: rows, keys: KEYS, sizes: [queries, keys], structure, bottom_right: op.bottom_right };
    let tables: Vec<(&'static str, Ref, ScalarType)> = lengths.into_iter().collect();
    let names: Vec<_> = masks.iter().map(|h| format!("mask `{}`", h.name)).collect();
    let maps: usize = shape[..shape.len() - 2].iter().product();
    plan.note(format!(
        "{}: {maps} block map{} of {lines} x {columns} tiles for {}, which hangs on {}",
        stage.label,
        if maps == 1 { "" } else { "s" },
        names.join(" and "),
        match structure {
            Structure::Distance => "query - key",
            Structure::Segments => "arguments of queries and keys",
            Structure::Pairs => "each pair",
        },
    ));
    plan.stage("block map", Op::BlockMap(block_map), vec![("map", map.clone())], tables, masks)?;
    let stages = plan.stages_mut();
    let made = stages.pop();
    if let Op::Attend(op) = &mut stages[n].op {
        op.keys = Keys::Blocks { queries: rows, keys: KEYS };
    }
    stages[n].bindings.push(("indices", map));
    stages.splice(n..n, made);
    Ok(())
}
