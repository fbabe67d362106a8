//! `list`: the catalogue.

use crate::failure::{Failure, Outcome};
use crate::out;
use crate::table::Table;
use serde_json::{Value as Json, json};
use wgpu_attention::caps::{Caps, Target, Tier};
use wgpu_attention::variants::CATALOG;
use wgpu_attention::{Entry, InputSpec, Layout, Problem, Value};

/// Arguments of `list`.
#[derive(clap::Args)]
pub struct Args {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let entries = || CATALOG.iter().flat_map(|family| family.iter());
    if args.json {
        out::json(&Json::Array(entries().map(to_json).collect()));
        return Ok(Outcome::Done);
    }
    for entry in entries() {
        print(entry);
    }
    out::line(format!(
        "{} variants. Shapes are in elements; `cargo doc` has the equations and papers.",
        entries().count()
    ));
    Ok(Outcome::Done)
}

fn dtype(input: &InputSpec) -> String {
    if input.half { format!("{}|F16", input.dtype.name()) } else { input.dtype.name().to_owned() }
}

/// The tiers that kernels of the variant are written for: those launched for a small problem on devices of every tier.
/// T0 runs everywhere.
fn tiers(entry: &Entry) -> Vec<&'static str> {
    let mut found = vec![Tier::T0.name()];
    for caps in devices() {
        let launched = kernels_tiers(entry, &caps).unwrap_or_default();
        found.extend(launched.into_iter().map(Tier::name).filter(|name| !found.contains(name)).collect::<Vec<_>>());
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn devices() -> [Caps; 2] {
    let t1 = Caps {
        tier: Tier::T1,
        f16: true,
        subgroups: Some((32, 32)),
        max_workgroup_memory: 32 << 10,
        ..Caps::portable(Target::Native)
    };
    [Caps { tier: Tier::T2, matrix: Some(16), max_workgroup_memory: 48 << 10, max_invocations: 1024, ..t1.clone() }, t1]
}

/// `None` for a variant whose sizes hang together in ways that a list of letters can not tell.
fn kernels_tiers(entry: &Entry, caps: &Caps) -> Option<Vec<Tier>> {
    let variant = entry.make(&[]).ok()?;
    let sizes = |letter: &str| if matches!(letter, "B" | "H" | "Hk") { 1 } else { 64 };
    let words = entry.card().inputs.iter().flat_map(|i| i.shape.split(|c: char| !c.is_alphanumeric() && c != '_'));
    let letters = words.filter(|w| w.starts_with(|c: char| c.is_ascii_uppercase()));
    let sizes: Vec<(String, usize)> = letters.map(|l| (l.to_owned(), sizes(l))).collect();
    let problem = Problem::from_sizes(&*variant, &sizes, true, &[]).ok()?;
    let plan = wgpu_attention::runtime::plan(&*variant, &problem).ok()?;
    let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
    let launch = |n: usize| plan.stages[n].op.kernel().launch(&plan.io(n, &layouts), caps).ok().map(|l| l.key.tier);
    Some((0..plan.stages.len()).filter_map(launch).collect())
}

fn print(entry: &Entry) {
    let card = entry.card();
    out::line(format!("{} ({})", card.name, card.family.name()));
    out::line(format!("    {}", card.summary));
    out::line(format!("    {}", card.equation));
    out::line(format!(
        "    forms {}; kernels {}; tiers {}",
        card.forms.join(", "),
        card.kernels.join(", "),
        tiers(entry).join(", ")
    ));
    let mut table = Table::new(&["", "", "", ""]);
    for input in card.inputs {
        table.row(["in".into(), input.name.into(), dtype(input), shape(input.shape, input.optional)]);
    }
    for spec in entry.parameters() {
        let default = match spec.default {
            Value::None => "absent".to_owned(),
            value => value.to_string(),
        };
        table.row(["param".into(), spec.name.into(), spec.kind.into(), format!("= {default}: {}", spec.help.trim())]);
    }
    for output in card.outputs {
        table.row(["out".into(), output.name.into(), output.dtype.name().into(), shape(output.shape, false)]);
    }
    table.lines(4).iter().skip(1).for_each(out::line);
    out::line("");
}

fn shape(words: &str, optional: bool) -> String {
    let text = match words.strip_prefix("broadcastable to ") {
        Some(full) => format!("broadcastable to ({full})"),
        None => words.split(" | ").map(|w| format!("({w})")).collect::<Vec<_>>().join(" or "),
    };
    text + if optional { ", optional" } else { "" }
}

fn to_json(entry: &Entry) -> Json {
    let card = entry.card();
    let inputs = card.inputs.iter().map(|i| {
        let types = if i.half { vec![i.dtype.name(), "F16"] } else { vec![i.dtype.name()] };
        json!({ "name": i.name, "shape": i.shape, "dtypes": types, "optional": i.optional })
    });
    let outputs = card.outputs.iter().map(|o| json!({ "name": o.name, "shape": o.shape, "dtype": o.dtype.name() }));
    let params = entry
        .parameters()
        .into_iter()
        .map(|p| json!({ "name": p.name, "type": p.kind, "default": plain(&p.default), "help": p.help.trim() }));
    json!({
        "name": card.name,
        "family": card.family.name(),
        "summary": card.summary,
        "equation": card.equation,
        "paper": card.paper,
        "inputs": inputs.collect::<Vec<_>>(),
        "params": params.collect::<Vec<_>>(),
        "outputs": outputs.collect::<Vec<_>>(),
        "forms": card.forms,
        "kernels": card.kernels,
        "tiers": tiers(entry),
    })
}

/// A parameter's value as JSON.
pub fn plain(value: &Value) -> Json {
    match value {
        Value::Bool(b) => json!(b),
        Value::Int(i) => json!(i),
        Value::Float(x) => json!(x),
        Value::Text(t) => json!(t),
        Value::List(list) => Json::Array(list.iter().map(plain).collect()),
        _ => Json::Null,
    }
}
