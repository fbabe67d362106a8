//! The plan of every variant as text: what a reviewer reads when a variant changes. And the plan's memory.

mod common;

use common::golden;
use wgpu_attention::case::Case;
use wgpu_attention::plan::{Plan, SlotRole};
use wgpu_attention::{Problem, Spec, runtime};

fn plans() -> Vec<(String, Plan)> {
    let plan = |(path, bytes): (String, Vec<u8>)| {
        let case = Case::parse(&bytes, None).expect("a case file");
        let variant = case.make(&[]).expect("a variant");
        let specs = case.inputs.iter().map(|(n, t)| (n.as_str(), Spec { dtype: t.dtype(), shape: t.shape().to_vec() }));
        let problem = Problem::new(&*variant, specs).expect("a problem");
        (path, runtime::plan(&*variant, &problem).expect("a plan"))
    };
    golden().into_iter().map(plan).collect()
}

#[test]
fn plan_of_every_variant() {
    for (path, plan) in plans().into_iter().filter(|(path, _)| path.ends_with("c1.safetensors")) {
        let name = path.split('/').nth(1).expect("family/variant/case");
        insta::assert_snapshot!(format!("plan_{name}"), ends(&plan.to_string()));
    }
}

/// A text that can be read: of a long one, which repeats itself, the first and the last lines.
fn ends(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 400 {
        return text.to_owned();
    }
    let middle = format!("  ... {} lines ...", lines.len() - 160);
    [&lines[..80], &[middle.as_str()], &lines[lines.len() - 80..]].concat().join("\n")
}

#[test]
fn transient_slots_alive_together_do_not_share_memory() {
    for (path, plan) in plans() {
        let memory = plan.memory();
        let life = |slot: usize| {
            let uses: Vec<usize> =
                (0..plan.stages.len()).filter(|&n| plan.uses(n).iter().any(|s| s.0 == slot)).collect();
            (*uses.first().expect("a use"), *uses.last().expect("a use"))
        };
        let transient: Vec<usize> =
            (0..plan.slots.len()).filter(|&n| plan.slots[n].role == SlotRole::Transient).collect();
        for (at, &a) in transient.iter().enumerate() {
            let bytes = (plan.slots[a].layout.len() * plan.slots[a].dtype.size()) as u64;
            let block = memory.block[a].expect("a block");
            assert!(memory.blocks[block] >= bytes, "{path}: {} does not fit its block", plan.slots[a].name);
            for &b in &transient[at + 1..] {
                let ((first_a, last_a), (first_b, last_b)) = (life(a), life(b));
                let together = first_a <= last_b && first_b <= last_a;
                assert!(
                    !together || memory.block[a] != memory.block[b],
                    "{path}: {} and {} share a block while both live",
                    plan.slots[a].name,
                    plan.slots[b].name
                );
            }
        }
    }
}

#[test]
fn memory_is_reused_after_the_last_use() {
    let (_, nsa) =
        plans().into_iter().find(|(path, _)| path.contains("native-sparse")).unwrap_or_else(|| plans().remove(0));
    let transient = nsa.slots.iter().filter(|s| s.role == SlotRole::Transient).count();
    if transient > 2 {
        assert!(nsa.memory().blocks.len() < transient, "{transient} slots in {} blocks", nsa.memory().blocks.len());
    }
}
