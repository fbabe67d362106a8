//! How a plan prints: slots, then one line a stage. Snapshots hold this text.

use super::{Plan, Ref, SlotRole, View};
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plan {}", self.variant)?;
        for slot in &self.slots {
            let role = match slot.role {
                SlotRole::Input => "in",
                SlotRole::Output => "out",
                SlotRole::Transient => "tmp",
                SlotRole::Constant(_) => "const",
            };
            writeln!(f, "  {role:5} {:12} {} {:?}", slot.name, slot.dtype.name(), slot.layout.shape)?;
        }
        for (n, stage) in self.stages.iter().enumerate() {
            writeln!(f, "  {n}. {}: {:?}", stage.label, stage.op)?;
            for (role, r) in &stage.bindings {
                writeln!(f, "       {role} = {}", self.describe(r))?;
            }
            for (name, r, _) in &stage.tables {
                writeln!(f, "       {name}[] = {}", self.describe(r))?;
            }
            for hook in &stage.hooks {
                write!(f, "       {:?} hook {}", hook.point, hook.name)?;
                for arg in &hook.args {
                    match arg.value.tensor() {
                        Some((r, _)) => write!(f, " {}[]={}", arg.name, self.describe(r))?,
                        None => write!(f, " {}={}", arg.name, arg.value)?,
                    }
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl Plan {
    fn describe(&self, r: &Ref) -> String {
        let mut text = self.slot(r.slot).name.clone();
        for view in &r.views {
            text += &match view {
                View::Permute(order) => format!(".permute{order:?}"),
                View::Insert(axis) => format!(".insert({axis})"),
                View::Select(axis, index) => format!(".select({axis}, {index})"),
                View::Narrow(axis, start, length) => format!(".narrow({axis}, {start}, {length})"),
                View::Broadcast(shape) => format!(".broadcast{shape:?}"),
                View::Split(axis, outer) => format!(".split({axis}, {outer})"),
            };
        }
        text
    }
}

impl fmt::Display for crate::hook::ArgValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32(x) => write!(f, "{x}"),
            Self::I32(x) => write!(f, "{x}"),
            Self::U32(x) => write!(f, "{x}u"),
            Self::Table(_, kind) | Self::Lookup(_, kind) => write!(f, "table of {}", kind.wgsl()),
        }
    }
}
