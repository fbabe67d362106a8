//! `Hooked`: a variant with users' hooks.

mod intervals;
mod structure;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Op;
use crate::kernel::attend::Normaliser;
use crate::kernel::key::Point;
use crate::oracle;
use crate::params::Value;
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::user_hook::{Sizes, UserHook};
use crate::variant::{Card, Variant};

/// A variant with users' hooks at one of its stages. Score hooks follow the variant's own, mask hooks add to them, a weight hook takes
/// their place, feature hooks come before the feature map.
///
/// It has no oracle: [`Variant::oracle`] gives no outputs.
#[derive(Clone, Debug)]
pub struct Hooked<V> {
    variant: V,
    hooks: Vec<UserHook>,
    stage: Option<String>,
    block_map: bool,
}

impl<V: Variant> Hooked<V> {
    /// The variant, without a hook yet.
    pub fn new(variant: V) -> Self {
        Hooked { variant, hooks: Vec::new(), stage: None, block_map: true }
    }

    /// Adds a hook.
    #[must_use]
    pub fn hook(mut self, hook: UserHook) -> Self {
        self.hooks.push(hook);
        self
    }

    /// The stage that takes the hooks, by its label in the plan. Needed where several attend.
    #[must_use]
    pub fn stage(mut self, label: &str) -> Self {
        self.stage = Some(label.to_owned());
        self
    }

    /// Asks the masks of every pair, without bounds or a block map from their structure.
    #[must_use]
    pub fn without_structure(mut self) -> Self {
        self.block_map = false;
        self
    }

    /// The variant without hooks.
    pub fn variant(&self) -> &V {
        &self.variant
    }

    /// The stages that call hooks of a point.
    fn stages(&self, plan: &mut PlanBuilder, point: Point) -> Result<Vec<usize>> {
        let name = self.card().name;
        let calls = |op: &Op| match point {
            Point::Feature => matches!(op, Op::Map(_)),
            _ => matches!(op, Op::Attend(_)),
        };
        let all: Vec<(usize, String)> = plan
            .stages_mut()
            .iter()
            .enumerate()
            .filter(|(_, s)| calls(&s.op))
            .map(|(n, s)| (n, s.label.clone()))
            .collect();
        let chosen: Vec<usize> = match &self.stage {
            Some(label) => all.iter().filter(|(_, l)| l == label).map(|(n, _)| *n).collect(),
            None => all.iter().map(|(n, _)| *n).collect(),
        };
        let labels: Vec<_> = all.iter().map(|(_, l)| format!("`{l}`")).collect();
        let kernel = if point == Point::Feature { "transform.map" } else { "attend" };
        let message = match (all.is_empty(), chosen.is_empty()) {
            (true, _) => format!("{name}: no stage of the plan calls {point:?} hooks (kernel {kernel})"),
            (false, true) => {
                let label = self.stage.as_deref().unwrap_or_default();
                format!("{name}: no stage `{label}` calls {point:?} hooks; {} do", labels.join(", "))
            }
            // A feature map is the same for queries and keys.
            _ if chosen.len() > 1 && point != Point::Feature => {
                format!("{name}: the stages {} all attend; name the one that takes the hooks", labels.join(", "))
            }
            _ => return Ok(chosen),
        };
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

impl<V: Variant> Variant for Hooked<V> {
    fn card(&self) -> &'static Card {
        self.variant.card()
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        self.variant.parameters()
    }

    fn more_inputs(&self) -> Vec<String> {
        let own = self.hooks.iter().flat_map(UserHook::inputs).map(str::to_owned);
        self.variant.more_inputs().into_iter().chain(own).collect()
    }

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        let variant = self.variant.after(tokens)?;
        let (hooks, stage) = (self.hooks.clone(), self.stage.clone());
        Some(Box::new(Hooked { variant, hooks, stage, block_map: self.block_map }))
    }

    fn absorbed(&self, tokens: usize) -> usize {
        self.variant.absorbed(tokens)
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        if self.block_map && self.hooks.iter().any(|hook| hook.point() == Point::Mask) {
            plan.whole_from(structure::LEAST_QUERIES);
        }
        self.variant.plan(problem, plan)?;
        let mut masked = None;
        for user in &self.hooks {
            for n in self.stages(plan, user.point())? {
                let stage = &plan.stages_mut()[n];
                let shape = |role: &str| {
                    stage
                        .bindings
                        .iter()
                        .find(|(name, _)| *name == role)
                        .map(|(_, r)| r.shape.clone())
                        .unwrap_or_default()
                };
                let sizes: Sizes = match (&stage.op, &shape("q")[..], &shape("k")[..]) {
                    (Op::Attend(_), &[b, h, lq, _], &[_, _, lk, _]) => [b, h, lq, lk],
                    _ => [1; 4],
                };
                if let (Point::Weight, Op::Attend(op)) = (user.point(), &stage.op) {
                    if op.normaliser == Normaliser::Softmax {
                        let name = self.card().name;
                        let message = format!(
                            "{name}: weights are a softmax; a weight hook needs a variant whose weights are hooks"
                        );
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                    plan.stages_mut()[n].hooks.retain(|h| h.point != Point::Weight);
                }
                let hook = user.hook(plan, sizes)?;
                plan.stages_mut()[n].hooks.push(hook);
                if user.point() == Point::Mask {
                    masked = Some((n, sizes));
                }
            }
        }
        if let Some((n, sizes)) = masked.filter(|_| self.block_map) {
            structure::structure(plan, n, sizes)?;
        }
        Ok(())
    }

    fn oracle(&self, _: &oracle::Inputs) -> oracle::Outputs {
        Vec::new()
    }
}
