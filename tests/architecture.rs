//! The dependency direction of the modules, read off their `use` lines and paths.

use std::path::{Path, PathBuf};

/// Module, and the modules it must not name.
const FORBIDDEN: [(&str, &[&str]); 10] = [
    ("hook", &["gpu", "cpu", "shader", "runtime", "variants", "variant", "wgpu", "oracle"]),
    ("variants", &["gpu", "cpu", "shader", "runtime", "wgpu"]),
    ("hooks", &["gpu", "cpu", "shader", "runtime", "variants", "wgpu", "oracle"]),
    ("plan", &["gpu", "cpu", "shader", "runtime", "variants", "wgpu", "oracle"]),
    ("kernel", &["gpu", "cpu", "shader", "runtime", "variants", "variant", "wgpu", "oracle"]),
    ("gpu", &["variants", "variant", "oracle", "cpu", "runtime"]),
    ("cpu", &["variants", "variant", "oracle", "gpu", "shader", "runtime", "wgpu"]),
    ("shader", &["gpu", "cpu", "variants", "variant", "plan", "runtime", "oracle", "wgpu"]),
    (
        "oracle",
        &[
            "gpu", "cpu", "variants", "variant", "plan", "kernel", "hook", "hooks", "shader", "runtime", "problem",
            "tensor", "wgpu",
        ],
    ),
    ("problem", &["gpu", "cpu", "plan", "kernel", "shader", "runtime", "wgpu"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(path: &Path, list: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder of src").flatten() {
            sources(&entry.path(), list);
        }
    } else if path.extension().is_some_and(|e| e == "rs") {
        list.push(path.to_owned());
    }
}

/// The text before the unit tests, without comments: tests may compare anything with anything.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_depend_in_one_direction() {
    let mut wrong = Vec::new();
    for (module, forbidden) in FORBIDDEN {
        let mut files = Vec::new();
        let folder = root().join(module);
        sources(if folder.is_dir() { &folder } else { Path::new("") }, &mut files);
        let file = root().join(format!("{module}.rs"));
        if file.exists() {
            files.push(file);
        }
        assert!(!files.is_empty(), "there is no module {module}");
        for file in files {
            let text = code(&file);
            for other in forbidden {
                let found = if *other == "wgpu" {
                    text.contains("wgpu::") && !text.contains("crate::wgpu")
                } else {
                    let path = format!("crate::{other}");
                    text.match_indices(&path)
                        .any(|(at, _)| !text[at + path.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                };
                if found {
                    wrong.push(format!("{} names {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn oracles_and_twins_do_not_meet() {
    let mut files = Vec::new();
    sources(&root().join("variants"), &mut files);
    for file in files {
        let text = code(&file);
        let Some(oracle) = text.find("fn oracle(") else { continue };
        // The method ends where its indentation does.
        let body = text[oracle..].split("\n    }").next().unwrap_or_default();
        for word in ["hooks::", "Attend", "kernel::"] {
            assert!(!body.contains(word), "{}: the oracle names {word}", file.display());
        }
    }
}

#[test]
fn files_stay_within_their_size() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut long: Vec<String> = Vec::new();
    for file in files {
        let lines = std::fs::read_to_string(&file).expect("a source file").lines().count();
        if lines > 600 {
            long.push(format!("{}: {lines} lines", file.display()));
        }
    }
    for (name, text) in wgpu_attention::shader::FILES {
        if text.lines().count() > 250 {
            long.push(format!("{name}.wgsl: {} lines", text.lines().count()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}
