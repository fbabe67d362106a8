//! `plan`: what a variant would launch for given sizes.

use crate::failure::{Failure, Outcome};
use crate::table::{Table, bytes, short};
use crate::{out, parameter};
use std::collections::BTreeSet;
use wgpu_attention::caps::{Caps, Target};
use wgpu_attention::kernel::{Io, Meta};
use wgpu_attention::plan::{Plan, SlotRole};
use wgpu_attention::{Card, Error, ErrorKind, Layout, Problem, Value, Variant, variant};

/// Arguments of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// The variant, as `list` names it.
    variant: String,
    /// Sizes: `B=1,H=8,Hk=2,Lq=4096,Lk=4096,D=64,Dv=64`. Hk, Lk and Dv default to H, Lq and D.
    #[arg(long, value_parser = sizes)]
    shape: Sizes,
    /// A parameter, as `list` names it; may be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = parameter)]
    params: Vec<(String, Value)>,
    /// q, k and v are stored as f16.
    #[arg(long)]
    f16: bool,
    /// Optional inputs that are present: `mask,bias`.
    #[arg(long, value_name = "INPUTS", value_delimiter = ',')]
    with: Vec<String>,
    /// Says what was decided and why: ranges of keys, bounds and block maps of masks given as code, kernels and their tiles.
    #[arg(long)]
    explain: bool,
    /// Part of the name or driver of the adapter to choose kernels for; without it those that run on every device.
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    #[command(flatten)]
    hooks: crate::hooks::HookArgs,
}

/// Letters and sizes.
#[derive(Clone, Debug)]
struct Sizes(Vec<(String, usize)>);

/// Letters that stand in for each other when a problem is made of sizes alone.
const ALIASES: [&str; 6] = ["B", "H", "Hk", "L", "Lq", "Lk"];

fn sizes(text: &str) -> Result<Sizes, Failure> {
    let one = |part: &str| match part.split_once('=') {
        // Kernels hold sizes in 32 bits.
        Some((letter, size)) => match size.trim().parse::<usize>() {
            Ok(n) if (1..1 << 31).contains(&n) => Ok((letter.trim().to_owned(), n)),
            _ => Err(Failure::input(format!("`{part}`: a size is a whole number from 1 to 2^31 - 1"))),
        },
        None => Err(Failure::input(format!("`{part}` is not LETTER=SIZE"))),
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(Sizes)
}

/// Runs the command.
pub fn run(args: &Args) -> Result<Outcome, Failure> {
    let variant = args.hooks.apply(variant::find(&args.variant)?.make(&args.params)?)?;
    let card = variant.card();
    check(card, args)?;
    let with: Vec<&str> = args.with.iter().map(String::as_str).collect();
    let problem = Problem::from_sizes(&variant, &args.shape.0, args.f16, &with)?;
    for (name, spec) in problem.inputs() {
        let elements = spec.shape.iter().try_fold(1_u64, |all, &n| all.checked_mul(n as u64));
        if elements.is_none_or(|n| n >= 1 << 44) {
            let message = format!("{}: `{name}` of shape {:?} is beyond any device", card.name, spec.shape);
            return Err(Error::new(ErrorKind::Limit, message).into());
        }
    }
    let plan = wgpu_attention::runtime::plan(&variant, &problem)?;
    out::line(plan.to_string().trim_end());
    out::line("");
    let caps = match &args.adapter {
        Some(adapter) => crate::engines::open(crate::engines::Engine::Gpu, Some(adapter))?.caps(),
        None => Caps::portable(Target::Native),
    };
    if args.explain {
        crate::explain::masks(&plan)?;
        crate::explain::kernels(&plan, &caps);
    }
    costs(&plan, &caps)
}

/// Names that no part of the card knows are mistakes that would otherwise change nothing.
fn check(card: &Card, args: &Args) -> Result<(), Failure> {
    let words = card.inputs.iter().flat_map(|i| i.shape.split(|c: char| !c.is_alphanumeric() && c != '_'));
    let known: BTreeSet<&str> = words.filter(|w| w.starts_with(char::is_alphabetic)).collect();
    for (letter, _) in &args.shape.0 {
        if !known.contains(letter.as_str()) && !ALIASES.contains(&letter.as_str()) {
            let sizes: Vec<_> =
                known.into_iter().filter(|w| !["broadcastable", "to", "ceil", "min"].contains(w)).collect();
            return Err(Failure::input(format!(
                "{}: no size is called `{letter}`; it has {}",
                card.name,
                sizes.join(", ")
            )));
        }
    }
    for name in &args.with {
        match card.input(name) {
            Some(input) if input.optional => {}
            found => {
                let optional: Vec<_> = card.inputs.iter().filter(|i| i.optional).map(|i| i.name).collect();
                let why = if found.is_some() { "is always there" } else { "is no input" };
                let list = if optional.is_empty() { "none".to_owned() } else { optional.join(", ") };
                return Err(Failure::input(format!("{}: `{name}` {why}; optional inputs: {list}", card.name)));
            }
        }
    }
    Ok(())
}

fn costs(plan: &Plan, caps: &Caps) -> Result<Outcome, Failure> {
    let layouts: Vec<Layout> = plan.slots.iter().map(|s| s.layout.clone()).collect();
    let mut table = Table::new(&["", "stage", ">workgroups", ">MFLOP", ">MB", "kernel"]);
    let (mut flops, mut moved) = (0.0, 0.0);
    for (n, stage) in plan.stages.iter().enumerate() {
        let io = plan.io(n, &layouts);
        let kernel = stage.op.kernel();
        let launch = kernel.launch(&io, caps)?;
        let (work, size) = (kernel.flops(&io), touched(&io) as f64);
        flops += work;
        moved += size;
        table.row([
            format!("{n}."),
            stage.label.clone(),
            launch.groups.to_string(),
            short(work / 1e6),
            short(size / 1e6),
            launch.key.label(),
        ]);
    }
    table.row(["".into(), "total".into(), "".into(), short(flops / 1e6), short(moved / 1e6), "".into()]);
    table.lines(0).iter().for_each(out::line);
    out::line("");
    let outside = plan.slots.iter().filter(|s| matches!(s.role, SlotRole::Input | SlotRole::Output));
    let once: usize = outside.map(|s| s.layout.len() * s.dtype.size()).sum();
    let memory = plan.memory();
    let blocks = memory.blocks.len();
    let buffers = if blocks == 1 { "buffer" } else { "buffers" };
    out::line(format!("inputs and outputs, each once: {}", bytes(once as u64)));
    out::line(format!("scratch memory: {} in {blocks} {buffers}", bytes(memory.bytes())));
    Ok(Outcome::Done)
}

/// Bytes that a stage binds, each element once.
fn touched(io: &Io) -> usize {
    let size = |meta: &Meta| {
        let axes = meta.layout.shape.iter().zip(&meta.layout.strides);
        axes.map(|(&n, &stride)| if stride == 0 { 1 } else { n }).product::<usize>() * meta.dtype.size()
    };
    io.roles.iter().map(|(_, meta)| size(meta)).sum::<usize>() + io.tables.iter().map(|t| size(&t.meta)).sum::<usize>()
}
