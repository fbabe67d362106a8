//! Masks given as code that leave every row one range of keys (documents, segments): bounds of the rows, and no mask is asked.

use super::structure::Sizes;
use crate::error::Result;
use crate::hook::{ArgRow, ArgValue, Hook, Row, Structure, Twin};
use crate::kernel::Op;
use crate::kernel::attend::{Attend, Keys};
use crate::kernel::key::{Point, ScalarType};
use crate::plan::{PlanBuilder, SlotRole};
use crate::tensor::{HostTensor, Layout};

/// Pairs that are asked for one mask, at most: more would make planning slow.
const MOST: usize = 1 << 20;

/// Takes the masks of stage `n` that are such out of it. Their tables must be known with the plan.
pub(super) fn intervals(plan: &mut PlanBuilder, n: usize, sizes: Sizes) -> Result<()> {
    let stage = plan.stages_mut()[n].clone();
    let Op::Attend(Attend { keys: Keys::Range, prefix: 0, .. }) = stage.op else { return Ok(()) };
    if stage.tables.iter().any(|(name, ..)| matches!(*name, "row_start" | "row_end")) {
        return Ok(());
    }
    let rules: Vec<Option<Rule>> = stage.hooks.iter().map(|hook| Rule::new(plan, hook, sizes)).collect();
    // What no mask tells apart shares its bounds.
    let tells = |axis: usize| rules.iter().flatten().any(|rule| rule.tables().any(|(_, l)| l.strides[axis] != 0));
    let units = [if tells(0) { sizes[0] } else { 1 }, if tells(1) { sizes[1] } else { 1 }];
    let mut bounds: Option<Bounds> = None;
    let (mut kept, mut notes) = (Vec::new(), Vec::new());
    for (hook, rule) in stage.hooks.iter().zip(&rules) {
        match rule.as_ref().and_then(|rule| rule.bounds([units[0], units[1], sizes[2], sizes[3]])) {
            Some(found) => {
                notes.push(format!(
                    "{}: the mask `{}` leaves every row one range of keys: bounds of the rows, not asked",
                    stage.label, hook.name
                ));
                bounds = Some(bounds.map_or(found.clone(), |all| all.and(&found)));
            }
            None => kept.push(hook.clone()),
        }
    }
    let Some(Bounds { start, end }) = bounds.map(Bounds::closed) else { return Ok(()) };
    notes.into_iter().for_each(|note| plan.note(note));
    let shape = [units[0], units[1], sizes[2], 1];
    for (name, values) in [("row_start", start), ("row_end", end)] {
        let table = plan.constant(name, HostTensor::new(&shape, values)?);
        plan.stages_mut()[n].tables.push((name, table, ScalarType::I32));
    }
    plan.stages_mut()[n].hooks = kept;
    Ok(())
}

/// The first key and the one past the last of each (B, H, Lq).
#[derive(Clone, Debug)]
struct Bounds {
    start: Vec<i32>,
    end: Vec<i32>,
}

impl Bounds {
    fn and(mut self, other: &Bounds) -> Bounds {
        self.start.iter_mut().zip(&other.start).for_each(|(a, b)| *a = (*a).max(*b));
        self.end.iter_mut().zip(&other.end).for_each(|(a, b)| *a = (*a).min(*b));
        self
    }

    /// Rows without keys get an empty range beside that of a row before them: a tile visits all keys between the bounds of its rows.
    fn closed(mut self) -> Bounds {
        let mut last = 0;
        for (start, end) in self.start.iter_mut().zip(&mut self.end) {
            if *start < *end {
                last = *start;
            } else {
                (*start, *end) = (last, last);
            }
        }
        self
    }
}

/// A mask that hangs on arguments of queries and of keys alone, with their values.
struct Rule<'a> {
    twin: &'a Twin,
    args: Vec<Value>,
}

enum Value {
    Number(f64),
    Table(HostTensor, Layout),
}

impl<'a> Rule<'a> {
    fn new(plan: &PlanBuilder, hook: &'a Hook, sizes: Sizes) -> Option<Self> {
        let Twin::Program(program) = &hook.twin else { return None };
        let depends = program.depends();
        if hook.point != Point::Mask || hook.structure != Structure::Segments || depends.head() || depends.batch() {
            return None;
        }
        let value = |value: &ArgValue| match value {
            ArgValue::F32(x) => Some(Value::Number(f64::from(*x))),
            ArgValue::I32(x) => Some(Value::Number(f64::from(*x))),
            ArgValue::U32(x) => Some(Value::Number(f64::from(*x))),
            ArgValue::Lookup(..) => None,
            ArgValue::Table(r, _) => {
                let SlotRole::Constant(data) = plan.plan_role(r) else { return None };
                let layout = r.broadcast(&sizes).layout(data.layout());
                let one_axis = layout.strides[2] == 0 || layout.strides[3] == 0;
                one_axis.then(|| Value::Table(data.clone(), layout))
            }
        };
        let args = hook.args.iter().map(|arg| value(&arg.value)).collect::<Option<_>>()?;
        Some(Rule { twin: &hook.twin, args })
    }

    /// The bounds of every row, if each sees one range.
    fn bounds(&self, [batch, heads, queries, keys]: Sizes) -> Option<Bounds> {
        let mut bounds = Bounds { start: Vec::new(), end: Vec::new() };
        let mut asked = 0;
        for unit in 0..batch * heads {
            let at = [unit / heads, unit % heads];
            // Units whose arguments are those of the unit before share its bounds.
            if unit > 0 && self.same_unit([(unit - 1) / heads, (unit - 1) % heads], at) {
                let from = bounds.start.len() - queries;
                bounds.start.extend_from_within(from..);
                bounds.end.extend_from_within(from..);
                continue;
            }
            let rows = self.runs(at, 2, queries);
            let firsts: Vec<i32> = self.runs(at, 3, keys).into_iter().map(|key| key as i32).collect();
            asked += rows.len() * firsts.len();
            if asked > MOST {
                return None;
            }
            for (n, &row) in rows.iter().enumerate() {
                let (start, end) = self.range(at, row, &firsts, keys as i32)?;
                let until = rows.get(n + 1).copied().unwrap_or(queries);
                bounds.start.extend(std::iter::repeat_n(start, until - row));
                bounds.end.extend(std::iter::repeat_n(end, until - row));
            }
        }
        Some(bounds)
    }

    /// The keys that a row sees, of runs of keys by their first ones.
    fn range(&self, [b, h]: [usize; 2], row: usize, firsts: &[i32], keys: i32) -> Option<(i32, i32)> {
        let args: Vec<ArgRow> = self
            .args
            .iter()
            .map(|value| match value {
                Value::Number(x) => ArgRow::Number(*x),
                Value::Table(data, layout) => ArgRow::of(data.data(), layout, [b, h, row]),
            })
            .collect();
        let mut allowed = vec![true; firsts.len()];
        let place = Row { batch: b, head: h, row, query: row as i32, keys: firsts };
        self.twin.mask(&mut allowed, &place, &args);
        let Some(first) = allowed.iter().position(|a| *a) else { return Some((0, 0)) };
        let last = allowed.iter().rposition(|a| *a)?;
        let whole = allowed[first..=last].iter().all(|a| *a);
        whole.then(|| (firsts[first], firsts.get(last + 1).copied().unwrap_or(keys)))
    }

    /// Where along an axis of the tables an argument is not its neighbour's.
    fn runs(&self, [b, h]: [usize; 2], axis: usize, length: usize) -> Vec<usize> {
        let differs = |at: usize| {
            self.tables().filter(|(_, layout)| layout.strides[axis] != 0).any(|(data, layout)| {
                let place = layout.at(&[b, h, 0, 0]) + at * layout.strides[axis];
                data.data().get(place) != data.data().get(place - layout.strides[axis])
            })
        };
        (0..length).filter(|&at| at == 0 || differs(at)).collect()
    }

    fn same_unit(&self, a: [usize; 2], b: [usize; 2]) -> bool {
        self.tables().all(|(_, layout)| layout.at(&[a[0], a[1], 0, 0]) == layout.at(&[b[0], b[1], 0, 0]))
    }

    fn tables(&self) -> impl Iterator<Item = (&HostTensor, &Layout)> {
        self.args.iter().filter_map(|value| match value {
            Value::Number(_) => None,
            Value::Table(data, layout) => Some((data, layout)),
        })
    }
}
