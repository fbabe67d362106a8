//! `--score FILE.wgsl` and its like: a variant with hooks given as files.

use crate::failure::Failure;
use std::path::{Path, PathBuf};
use wgpu_attention::kernel::key::{Point, ScalarType};
use wgpu_attention::{Along, Argument, Hooked, HostData, HostTensor, UserHook, Variant};

/// Hooks of a command.
#[derive(clap::Args)]
pub struct HookArgs {
    /// A WGSL file with `fn score(s: f32, at: At, ...) -> f32`: what becomes of a score; may be repeated.
    #[arg(long, value_name = "FILE.wgsl")]
    score: Vec<PathBuf>,
    /// A WGSL file with `fn mask(at: At, ...) -> bool`: which pairs are allowed; may be repeated.
    #[arg(long, value_name = "FILE.wgsl")]
    mask: Vec<PathBuf>,
    /// A WGSL file with `fn weight(s: f32, at: At, ...) -> f32`, in place of the variant's own weight.
    #[arg(long, value_name = "FILE.wgsl")]
    weight: Option<PathBuf>,
    /// A WGSL file with `fn feature(x: f32, ...) -> f32`, before the feature map; may be repeated.
    #[arg(long, value_name = "FILE.wgsl")]
    feature: Vec<PathBuf>,
    /// An argument of the hooks: a number, `[0x128,1x128]@keys` (128 zeros, 128 ones), or `TENSOR@keys` for a tensor of the case file. After the
    /// @ stands what its elements belong to: heads, queries, keys or pairs; may be repeated.
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = argument)]
    args: Vec<(String, Given)>,
    /// The stage that takes the hooks, where several attend: its label in the plan.
    #[arg(long, value_name = "LABEL")]
    hook_stage: Option<String>,
}

/// An argument's value before the type that the hook gives it is known.
#[derive(Clone, Debug)]
enum Given {
    Number(f64),
    List(Vec<f64>, Along),
    Input(String, Along),
}

fn argument(text: &str) -> Result<(String, Given), Failure> {
    let bad = |why: &str| Failure::input(format!("`{text}`: {why}"));
    let (name, value) = text.split_once('=').ok_or_else(|| bad("an argument is NAME=VALUE"))?;
    let name = name.trim().to_owned();
    if let Ok(x) = value.trim().parse::<f64>() {
        return Ok((name, Given::Number(x)));
    }
    let (value, along) =
        value.rsplit_once('@').ok_or_else(|| bad("a value is a number, [LIST]@AXIS or TENSOR@AXIS"))?;
    let along = match along.trim() {
        "heads" => Along::Heads,
        "queries" => Along::Queries,
        "keys" => Along::Keys,
        "pairs" => Along::Pairs,
        _ => return Err(bad("after the @ stands heads, queries, keys or pairs")),
    };
    let Some(list) = value.trim().strip_prefix('[') else {
        return Ok((name, Given::Input(value.trim().to_owned(), along)));
    };
    let mut numbers = Vec::new();
    for part in list.strip_suffix(']').ok_or_else(|| bad("the list has no `]`"))?.split(',') {
        let (number, count) = part.split_once('x').unwrap_or((part, "1"));
        let number: f64 = number.trim().parse().map_err(|_| bad("an entry of the list is no number"))?;
        let count = count.trim().parse().ok().filter(|n| numbers.len() + n <= 1 << 26);
        let count: usize = count.ok_or_else(|| bad("an entry of the list is repeated by no number"))?;
        numbers.resize(numbers.len() + count, number);
    }
    Ok((name, Given::List(numbers, along)))
}

impl HookArgs {
    /// The variant with the hooks.
    pub fn apply(&self, variant: Box<dyn Variant>) -> Result<Hooked<Box<dyn Variant>>, Failure> {
        let files = |files: &[PathBuf], point| files.iter().map(|f| (point, f.clone())).collect::<Vec<_>>();
        let mut all = files(&self.score, Point::Score);
        all.extend(files(&self.mask, Point::Mask));
        all.extend(files(self.weight.as_slice(), Point::Weight));
        all.extend(files(&self.feature, Point::Feature));
        let mut hooked = Hooked::new(variant);
        if let Some(label) = &self.hook_stage {
            hooked = hooked.stage(label);
        }
        let mut known = Vec::new();
        for (point, path) in all {
            let hook = self.hook(point, &path)?;
            known.extend(hook.params().iter().map(|(name, _)| name.clone()));
            hooked = hooked.hook(hook);
        }
        if let Some((name, _)) = self.args.iter().find(|(name, _)| !known.contains(name)) {
            let known =
                if known.is_empty() { "they have none".to_owned() } else { format!("they have {}", known.join(", ")) };
            return Err(Failure::input(format!("no hook has an argument `{name}`; {known}")));
        }
        Ok(hooked)
    }

    fn hook(&self, point: Point, path: &Path) -> Result<UserHook, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, &e))?;
        let made = match point {
            Point::Score => UserHook::score(&text),
            Point::Mask => UserHook::mask(&text),
            Point::Weight => UserHook::weight(&text),
            Point::Feature => UserHook::feature(&text),
        };
        let mut hook = made.map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
        for (name, kind) in hook.params().to_vec() {
            // The last one counts, as with parameters.
            if let Some((_, given)) = self.args.iter().rev().find(|(n, _)| *n == name) {
                hook = hook.with(&name, typed(&name, given, kind)?)?;
            }
        }
        Ok(hook)
    }
}

/// The value as the type of the hook's argument.
fn typed(name: &str, given: &Given, kind: ScalarType) -> Result<Argument, Failure> {
    let whole = |x: f64| {
        let most = if kind == ScalarType::U32 { f64::from(u32::MAX) } else { f64::from(i32::MAX) };
        let least = if kind == ScalarType::U32 { 0.0 } else { f64::from(i32::MIN) };
        if x.fract() == 0.0 && (least..=most).contains(&x) {
            Ok(x as i64)
        } else {
            Err(Failure::input(format!("argument `{name}`: {x} is no {}", kind.wgsl())))
        }
    };
    Ok(match given {
        Given::Input(tensor, along) => Argument::Input(tensor.clone(), *along),
        Given::Number(x) => match kind {
            ScalarType::F32 => Argument::F32(*x as f32),
            ScalarType::I32 => Argument::I32(whole(*x)? as i32),
            ScalarType::U32 => Argument::U32(whole(*x)? as u32),
            ScalarType::Bool => {
                return Err(Failure::input(format!(
                    "argument `{name}` is a bool for each pair: give a list or a tensor"
                )));
            }
        },
        Given::List(numbers, along) => {
            let data: HostData = match kind {
                ScalarType::F32 => numbers.iter().map(|x| *x as f32).collect::<Vec<_>>().into(),
                _ => numbers.iter().map(|x| whole(*x).map(|n| n as i32)).collect::<Result<Vec<i32>, _>>()?.into(),
            };
            Argument::Tensor(HostTensor::new(&[numbers.len()], data)?, *along)
        }
    })
}
