//! Files, CATALOG, README table and golden index name the same variants with the same inputs, parameters and outputs.

use std::collections::BTreeMap;
use std::path::Path;
use wgpu_attention::variants::CATALOG;
use wgpu_attention::{Entry, Value, variant};

/// Inputs that a variant takes beyond the golden index: a plan given by the user, and device-side lengths.
const EXTRA_INPUTS: [(&str, &str); 4] = [
    ("dense-attention", "lengths"),
    ("split-kv-decode", "lengths"),
    ("hisa", "indices"),
    ("native-sparse-attention", "blocks"),
];

fn entries() -> impl Iterator<Item = &'static Entry> {
    CATALOG.iter().flat_map(|family| family.iter())
}

fn index() -> serde_json::Map<String, serde_json::Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/INDEX.json");
    let text = std::fs::read_to_string(path).expect("the golden index");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    value["variants"].as_object().expect("variants").clone()
}

#[test]
fn the_catalogue_is_the_golden_index() {
    let mut ours: Vec<&str> = entries().map(|e| e.card().name).collect();
    ours.sort_unstable();
    let mut theirs: Vec<String> = index().keys().cloned().collect();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
}

#[test]
fn cards_are_those_of_the_golden_index() {
    let index = index();
    for entry in entries() {
        let card = entry.card();
        let want = &index[card.name];
        assert_eq!(want["family"], card.family.name(), "{}", card.name);
        let inputs: BTreeMap<&str, (String, bool, &str)> = card
            .inputs
            .iter()
            .filter(|i| !EXTRA_INPUTS.contains(&(card.name, i.name)))
            .map(|i| (i.name, (i.shape.to_owned(), i.optional, i.dtype.name())))
            .collect();
        let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
        let theirs: BTreeMap<&str, (String, bool, String)> = want["inputs"]
            .as_object()
            .expect("inputs")
            .iter()
            .map(|(name, v)| (name.as_str(), (text(v, "shape"), v["optional"] == true, text(v, "dtype"))))
            .collect();
        assert_eq!(format!("{inputs:?}"), format!("{theirs:?}"), "{}", card.name);
        let outputs: BTreeMap<&str, (&str, &str)> =
            card.outputs.iter().map(|o| (o.name, (o.shape, o.dtype.name()))).collect();
        let theirs: BTreeMap<&str, (String, String)> = want["outputs"]
            .as_object()
            .expect("outputs")
            .iter()
            .map(|(name, v)| (name.as_str(), (text(v, "shape"), text(v, "dtype"))))
            .collect();
        assert_eq!(format!("{outputs:?}"), format!("{theirs:?}"), "{}", card.name);
        let params: BTreeMap<&str, (&str, Value)> =
            entry.parameters().iter().map(|p| (p.name, (p.kind, p.default.clone()))).collect();
        let theirs = want["params"].as_object().expect("params");
        assert_eq!(params.len(), theirs.len(), "{}", card.name);
        for (name, v) in theirs {
            let (kind, default) =
                params.get(name.as_str()).unwrap_or_else(|| panic!("{} has no parameter {name}", card.name));
            assert_eq!(*kind, v["type"], "{} {name}", card.name);
            let want = v["default"].to_string().replace('"', "").replace(',', ", ").replace("null", "none");
            let same = default.to_string() == want
                || default.to_string().parse::<f64>().ok() == want.parse::<f64>().ok() && want.parse::<f64>().is_ok();
            assert!(same, "{} {name}: default {default}, in the index {want}", card.name);
        }
    }
}

#[test]
fn every_variant_has_one_file_and_module_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/variants");
    let mut files = 0;
    for family in ["dense", "sparse", "linear", "hierarchical"] {
        for file in std::fs::read_dir(root.join(family)).expect("a family").flatten() {
            if file.file_name() == "mod.rs" {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(file.path()).expect("a variant");
            let docs = text.lines().take_while(|l| l.starts_with("//!")).count();
            assert!((8..=30).contains(&docs), "{:?}: {docs} lines of module docs", file.path());
            assert!(text.contains("//! ```text"), "{:?}: no equation", file.path());
        }
    }
    assert_eq!(files, entries().count());
}

#[test]
fn the_readme_has_a_row_a_variant() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
    for entry in entries() {
        let card = entry.card();
        let row = format!("| `{}` | {} | {} | {} |", card.name, card.equation, card.paper, card.kernels.join(", "));
        assert!(readme.contains(&row), "README lacks the row\n{row}");
    }
}

#[test]
fn names_are_found_and_near_names_suggested() {
    assert_eq!(variant::find("alibi-attention").expect("a variant").card().name, "alibi-attention");
    let error = variant::find("alibi-atention").unwrap_err();
    assert_eq!(error.to_string(), "no variant is called `alibi-atention`; the nearest name is `alibi-attention`");
}
