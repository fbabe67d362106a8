//! Hooks of a stage with their arguments, ready to be called on the CPU.

use super::{Io, TwinIo};
use crate::error::{Error, ErrorKind, Result};
use crate::hook::{ArgRow, ArgValue, Twin};
use crate::kernel::key::Point;
use crate::tensor::{HostData, Layout};

/// A hook's function and what its arguments are made of.
pub(crate) struct Call<'a> {
    pub twin: &'a Twin,
    pub args: Vec<Arg<'a>>,
}

pub(crate) enum Arg<'a> {
    Number(f64),
    /// Memory, and its layout (B, H, Lq, Lk).
    Table(&'a HostData, &'a Layout),
    /// The same, read anywhere.
    Whole(&'a HostData, &'a Layout),
}

impl<'a> Call<'a> {
    /// The arguments at one (batch, head, row).
    pub fn args<'s>(&self, at: [usize; 3], to: &'s mut Vec<ArgRow<'a>>) -> &'s [ArgRow<'a>] {
        to.clear();
        to.extend(self.args.iter().map(|arg| match arg {
            Arg::Number(x) => ArgRow::Number(*x),
            Arg::Table(data, layout) => ArgRow::of(data, layout, at),
            Arg::Whole(data, layout) => ArgRow::Whole { data, layout },
        }));
        to
    }

    /// Whether the hook says the same of all keys at two rows of one batch and head: it hangs on arguments alone, and those of the rows are
    /// the same.
    pub fn same(&self, [batch, head, a]: [usize; 3], b: usize) -> bool {
        let Twin::Program(program) = self.twin else { return false };
        let same = |arg: &Arg| match arg {
            Arg::Number(_) => true,
            Arg::Table(data, layout) => {
                let at = |row| data.get(layout.at(&[batch, head, row, 0]));
                layout.strides[2] == 0 || layout.strides[3] == 0 && at(a) == at(b)
            }
            Arg::Whole(..) => false,
        };
        !program.depends().query() && self.args.iter().all(same)
    }
}

/// The hooks of a point, in order.
pub(crate) fn calls<'a>(io: &TwinIo<'a>, kernel: &str, point: Point) -> Result<Vec<Call<'a>>> {
    let stage: &'a Io = io.io;
    let hooks = stage.hooks.iter().enumerate().filter(|(_, hook)| hook.point == point);
    let call = |(n, hook): (usize, &'a crate::hook::Hook)| {
        let mut args = Vec::new();
        for arg in &hook.args {
            let name = format!("h{n}_{}", arg.name);
            let table = stage.tables.iter().position(|t| t.name == name);
            args.push(match (table, &arg.value) {
                (Some(at), ArgValue::Lookup(..)) => Arg::Whole(io.tables[at], &stage.tables[at].meta.layout),
                (Some(at), _) => Arg::Table(io.tables[at], &stage.tables[at].meta.layout),
                (None, ArgValue::F32(x)) => Arg::Number(f64::from(*x)),
                (None, ArgValue::I32(x)) => Arg::Number(f64::from(*x)),
                (None, ArgValue::U32(x)) => Arg::Number(f64::from(*x)),
                (None, ArgValue::Table(..) | ArgValue::Lookup(..)) => {
                    let message = format!("{kernel}: the table `{}` of hook `{}` is not bound", arg.name, hook.name);
                    return Err(Error::new(ErrorKind::MissingInput, message));
                }
            });
        }
        if !hook.twin.serves(point) {
            let message = format!("{kernel}: hook `{}` has no function for its point on the CPU", hook.name);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(Call { twin: &hook.twin, args })
    };
    hooks.map(call).collect()
}
