//! Output snapshots: the oracle's numbers for one small case a variant, rounded to five significant digits. Every engine is compared with
//! the numbers in the snapshot.

mod common;

use common::{engines_in_turn, golden};
use wgpu_attention::case::Case;

/// Elements of each output that a snapshot shows.
const SHOWN: usize = 8;

#[test]
fn first_elements_of_every_variant() {
    let mut failures = Vec::new();
    for (n, (path, bytes)) in golden().into_iter().filter(|(path, _)| path.ends_with("c1.safetensors")).enumerate() {
        let case = Case::parse(&bytes, None).expect("a case file");
        let variant = case.make(&[]).expect("a variant");
        let numbers: Vec<(&str, Vec<String>)> = variant
            .oracle(&case.oracle_inputs())
            .iter()
            .map(|(name, array)| (*name, array.data.iter().take(SHOWN).map(|x| format!("{x:.4e}")).collect()))
            .collect();
        let text: Vec<String> = numbers.iter().map(|(name, shown)| format!("{name}: {}", shown.join(" "))).collect();
        insta::assert_snapshot!(format!("outputs_{}", case.variant), text.join("\n"));
        let call = case.call_inputs();
        for (engine, runtime) in engines_in_turn(n) {
            let outputs = runtime.call_blocking(&*variant, &call).expect(engine);
            for (name, shown) in &numbers {
                let got = outputs.get(name).expect("an output of the card").to_f64();
                for (want, got) in shown.iter().zip(got) {
                    let want: f64 = want.parse().expect("a number");
                    // Half a unit of the fifth digit, and the budget of f16 inputs.
                    let same = (want == got)
                        || (want <= -1e30 && got <= -1e30)
                        || (want - got).abs() <= 6e-5 * want.abs() + 2e-5;
                    if !same {
                        failures.push(format!("{path} on {engine}: {name} {got}, in the snapshot {want}"));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
