//! From a stage and the layouts at hand to what its kernel sees.

use super::{Plan, Ref, SlotId, SlotRole};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Place, ScalarType};
use crate::kernel::{Io, Meta, TableMeta};
use crate::tensor::{HostTensor, Inputs, Layout, Storage};

/// Storage bindings that every device has; keys are laid out for it on all of them, so that they are the same everywhere.
const PORTABLE_BINDINGS: usize = 8;

impl Plan {
    /// The tables of stage `n` with the names of their accessors: the kernel's own, then those of hooks (`h0_slope`).
    pub fn tables(&self, n: usize) -> Vec<(String, &Ref, ScalarType)> {
        let stage = &self.stages[n];
        let mut list: Vec<(String, &Ref, ScalarType)> =
            stage.tables.iter().map(|(name, r, kind)| ((*name).to_owned(), r, *kind)).collect();
        for (h, hook) in stage.hooks.iter().enumerate() {
            for arg in &hook.args {
                if let Some((r, kind)) = arg.value.tensor() {
                    list.push((format!("h{h}_{}", arg.name), r, kind));
                }
            }
        }
        list
    }

    /// What stage `n` is bound to when slots have these layouts.
    pub fn io(&self, n: usize, layouts: &[Layout]) -> Io {
        let stage = &self.stages[n];
        let meta = |r: &Ref| Meta { dtype: r.dtype, layout: r.layout(&layouts[r.slot.0]) };
        // In the kernel's order, which is the order of the bindings.
        let roles = stage.op.kernel().roles().iter().filter_map(|role| {
            stage.bindings.iter().find(|(name, _)| *name == role.name).map(|(_, r)| (role.name, meta(r)))
        });
        let roles: Vec<_> = roles.collect();
        let mut tables: Vec<TableMeta> = self
            .tables(n)
            .into_iter()
            .map(|(name, r, result)| TableMeta { name, result, place: Place::Side, meta: broadcast(meta(r)) })
            .collect();
        place(&mut tables, PORTABLE_BINDINGS.saturating_sub(roles.len()));
        Io { roles, tables, hooks: stage.hooks.clone() }
    }

    /// The layouts of all slots in a call with these inputs.
    ///
    /// # Errors
    /// [`ErrorKind::MissingInput`], [`ErrorKind::UnknownName`], [`ErrorKind::Shape`] and [`ErrorKind::DType`] when the inputs are not those
    /// the plan was made for, [`ErrorKind::Index`] when a host tensor's values are not what the plan demands.
    pub fn layouts(&self, inputs: &Inputs) -> Result<Vec<Layout>> {
        for (name, _) in inputs.iter() {
            if !self.inputs().any(|(_, slot)| slot.name == name) {
                let message = format!("{}: the plan was made without the input `{name}`", self.variant);
                return Err(Error::new(ErrorKind::UnknownName, message));
            }
        }
        let mut layouts = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            if slot.role != SlotRole::Input {
                layouts.push(slot.layout.clone());
                continue;
            }
            let tensor = inputs.get(&slot.name).ok_or_else(|| {
                let message =
                    format!("{}: the input `{}` that the plan was made with is missing", self.variant, slot.name);
                Error::new(ErrorKind::MissingInput, message)
            })?;
            let refuse = |kind, expected: String, found: String| {
                Error::expected(kind, self.variant, &slot.name, expected, found)
            };
            if tensor.shape() != slot.layout.shape {
                let (want, found) = (format!("{:?}", slot.layout.shape), format!("{:?}", tensor.shape()));
                return Err(refuse(ErrorKind::Shape, want, found));
            }
            if tensor.dtype() != slot.dtype {
                return Err(refuse(ErrorKind::DType, slot.dtype.name().into(), tensor.dtype().name().into()));
            }
            let layout = tensor.layout();
            if layout.shape.last().is_some_and(|&n| n > 1) && layout.strides.last() != Some(&1) {
                let found = format!("strides {:?}", layout.strides);
                return Err(refuse(ErrorKind::Shape, "an innermost stride of 1 (see `contiguous`)".into(), found));
            }
            if let (Some(check), Storage::Host(_)) = (slot.check, tensor.storage())
                && let Some(host) = tensor.host()
            {
                check.verify(&host).map_err(|(expected, found)| refuse(ErrorKind::Index, expected, found))?;
            }
            layouts.push(layout.clone());
        }
        Ok(layouts)
    }

    /// Whether stage `n` writes `slot`.
    pub fn writes(&self, n: usize, slot: SlotId) -> bool {
        let stage = &self.stages[n];
        stage.bindings.iter().any(|(name, r)| {
            let written =
                |role: &crate::kernel::Role| role.name == *name && role.access == crate::kernel::key::Access::Write;
            r.slot == slot && stage.op.kernel().roles().iter().any(written)
        })
    }
}

impl super::Check {
    fn verify(self, host: &HostTensor) -> Result<(), (String, String)> {
        let values = host.to_i32();
        match self {
            super::Check::IndexBelow(n) => match values.iter().find(|&&x| x < -1 || x >= n as i32) {
                Some(x) => Err((format!("indices from -1 to {}", n as i64 - 1), x.to_string())),
                None => Ok(()),
            },
            super::Check::AtMost(n) => match values.iter().find(|&&x| x < 0 || x > n as i32) {
                Some(x) => Err((format!("counts from 0 to {n}"), x.to_string())),
                None => Ok(()),
            },
            super::Check::Disjoint { rows, keys } => {
                let inside = |r: &&[i32]| {
                    let within = |from: i32, to: i32, n: usize| 0 <= from && from <= to && to as i64 <= n as i64;
                    !(within(r[0], r[1], rows) && within(r[2], r[3], keys) && (0..4).contains(&r[4]))
                };
                if let Some(bad) = values.chunks_exact(5).find(inside) {
                    return Err((
                        format!("slices inside {rows} rows and {keys} keys, kind 0 to 3"),
                        format!("{bad:?}"),
                    ));
                }
                let meet = |a: &[i32], b: &[i32]| {
                    let both = |n: usize| a[n].max(b[n]) < a[n + 1].min(b[n + 1]);
                    both(0) && both(2)
                };
                let all: Vec<&[i32]> = values.chunks_exact(5).collect();
                match all.iter().enumerate().find_map(|(n, a)| Some((a, all[..n].iter().find(|b| meet(a, b))?))) {
                    Some((a, b)) => Err(("slices that do not overlap".to_owned(), format!("{b:?} and {a:?}"))),
                    None => Ok(()),
                }
            }
            super::Check::Cumulative(n) => {
                let width = host.shape().last().copied().unwrap_or(1).max(1);
                for row in values.chunks(width) {
                    let ordered = row.windows(2).all(|w| w[0] <= w[1]);
                    if row.first() != Some(&0) || !ordered || row.last().is_some_and(|&last| last > n as i32) {
                        return Err((format!("cumulative lengths from 0 to at most {n}"), format!("{row:?}")));
                    }
                }
                Ok(())
            }
        }
    }
}

/// Axes of size 1 stand for any index.
fn broadcast(mut meta: Meta) -> Meta {
    for (stride, &n) in meta.layout.strides.iter_mut().zip(&meta.layout.shape) {
        if n == 1 {
            *stride = 0;
        }
    }
    meta
}

/// Gives each table a binding of its own while there are any, those over pairs first; the rest is packed into `side`.
fn place(tables: &mut [TableMeta], free: usize) {
    let own = if tables.len() <= free { tables.len() } else { free.saturating_sub(1) };
    let mut order: Vec<usize> = (0..tables.len()).collect();
    let pairs = |t: &TableMeta| usize::from(t.meta.layout.strides.iter().filter(|&&s| s != 0).count() < 2);
    order.sort_by_key(|&n| (pairs(&tables[n]), n));
    for n in order.into_iter().take(own) {
        tables[n].place = Place::Own;
    }
}
