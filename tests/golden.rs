//! Every golden case on every engine this machine has, and through the oracle.

mod common;

use common::{engines, golden};
use wgpu_attention::case::Case;

#[test]
fn golden_cases_pass_on_every_engine() {
    let mut failures = Vec::new();
    let (mut passed, engines) = (0, engines());
    for (path, bytes) in golden() {
        let case = Case::parse(&bytes, None).expect("a case file");
        for (name, runtime) in &engines {
            let result = pollster::block_on(case.run(runtime));
            match result {
                Err(error) => failures.push(format!("{path} on {name}: {error}")),
                Ok(outputs) => {
                    for c in case.compare(&outputs) {
                        if c.passed() {
                            passed += 1;
                        } else {
                            failures
                                .push(format!("{path} on {name}: {} {:.2e} > {:.0e}", c.output, c.error, c.allowed));
                        }
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{passed} passed, {} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(passed > 0 || std::env::var("ATTN_TEST").is_ok(), "no case was found");
}

#[test]
fn golden_cases_pass_through_the_oracle() {
    let mut failures = Vec::new();
    for (path, bytes) in golden() {
        let case = Case::parse(&bytes, None).expect("a case file");
        let variant = case.make(&[]).expect("a variant of the catalogue");
        let results = variant.oracle(&case.oracle_inputs());
        for (name, want, tolerance) in &case.expected {
            let got = results.iter().find(|(n, _)| n == name);
            let Some((_, got)) = got else {
                failures.push(format!("{path}: the oracle gives no {name}"));
                continue;
            };
            let got = common::tensor_of(got);
            let error = wgpu_attention::case::compare(want, &got, *tolerance);
            // The file holds f64 results rounded to f32: nothing but that rounding may differ.
            let budget = if *tolerance == wgpu_attention::case::Tolerance::Exact { 0.0 } else { 3e-7 };
            if error > budget {
                failures.push(format!("{path}: {name} {error:.2e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
