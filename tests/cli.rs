//! The program as a user meets it: exit status, messages, what its outputs hold.

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use wgpu_attention::HostTensor;
use wgpu_attention::case::{self, Case};

/// No test depends on an adapter: none is visible to the program.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-attention"));
    command
        .args(args)
        .env("VK_DRIVER_FILES", "/nowhere.json")
        .env("VK_ICD_FILENAMES", "/nowhere.json")
        .env_remove("DISPLAY");
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Standard output of a call that must succeed.
fn good(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// Asserts the exit status and a part of what is on standard error.
fn fails(args: &[&str], status: i32, message: &str) {
    let output = run(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
    assert!(stderr.contains(message), "{args:?}: `{message}` is not in: {stderr}");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A folder of its own for a test.
fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

/// Metadata of a case file that expects `tolerance`.
fn metadata(case: &Case, tolerance: &str) -> BTreeMap<String, String> {
    let params: serde_json::Map<String, Value> = case.params.iter().map(|(n, v)| (n.clone(), json(v))).collect();
    BTreeMap::from([
        ("variant".to_owned(), case.variant.clone()),
        ("params".to_owned(), Value::Object(params).to_string()),
        ("tolerance".to_owned(), tolerance.to_owned()),
    ])
}

fn json(value: &wgpu_attention::Value) -> Value {
    match value {
        wgpu_attention::Value::Bool(b) => (*b).into(),
        wgpu_attention::Value::Int(i) => (*i).into(),
        wgpu_attention::Value::Float(x) => (*x).into(),
        wgpu_attention::Value::Text(t) => t.as_str().into(),
        wgpu_attention::Value::List(list) => list.iter().map(json).collect(),
        _ => Value::Null,
    }
}

#[test]
fn adapters_tell_what_is_used() {
    let stdout = good(&["adapters"]);
    assert!(stdout.contains("CPU engine"), "{stdout}");
    assert!(stdout.contains("--engine auto uses: "), "{stdout}");
    let report: Value = serde_json::from_str(&good(&["adapters", "--json"])).expect("JSON");
    assert!(report["adapters"].is_array() && report["auto"].is_string(), "{report}");
}

#[test]
fn list_has_the_whole_catalogue() {
    let list: Value = serde_json::from_str(&good(&["list", "--json"])).expect("JSON");
    let list = list.as_array().expect("an array");
    let all: Vec<_> = wgpu_attention::variants::CATALOG.iter().flat_map(|f| f.iter()).map(|e| e.card().name).collect();
    let listed: Vec<_> = list.iter().map(|v| v["name"].as_str().expect("a name")).collect();
    assert_eq!(listed, all);
    let dense = list.iter().find(|v| v["name"] == "dense-attention").expect("dense-attention");
    assert_eq!(
        dense["inputs"][0],
        serde_json::json!({ "name": "q", "shape": "B H Lq D", "dtypes": ["F32", "F16"], "optional": false })
    );
    assert_eq!(dense["params"][0]["default"], "noncausal_cross");
    assert_eq!(dense["tiers"][0], "T0");
    let stdout = good(&["list"]);
    assert!(stdout.contains(&format!("{} variants", all.len())), "{stdout}");
}

#[test]
fn plan_counts_work_and_memory() {
    let stdout = good(&["plan", "dense-attention", "--shape", "B=1,H=8,Hk=2,Lq=4096,Lk=4096,D=64,Dv=64", "--f16"]);
    assert!(stdout.starts_with("plan dense-attention\n"), "{stdout}");
    // 4 B H L² D = 34359.7 MFLOP.
    assert!(stdout.contains("34360"), "{stdout}");
    assert!(stdout.contains("attend/tile") && stdout.contains("q:f16"), "{stdout}");
    assert!(stdout.contains("scratch memory: 0 B"), "{stdout}");
    let masked = good(&[
        "plan",
        "dense-attention",
        "--shape",
        "B=1,H=2,Lq=8,D=4",
        "--with",
        "mask,bias",
        "--param",
        "scale=0.5",
    ]);
    assert!(masked.contains("mask") && masked.contains("scale: 0.5"), "{masked}");
}

#[test]
fn plan_refuses_what_makes_no_sense() {
    let dense = |shape: &'static str| vec!["plan", "dense-attention", "--shape", shape];
    fails(&["plan", "dens-attention", "--shape", "B=1"], 3, "the nearest name is `dense-attention`");
    fails(&dense("B=1,H=2,Lq=8,D=4,Q=3"), 2, "no size is called `Q`");
    fails(&dense("B=1,H=3,Hk=2,Lq=8,D=4"), 2, "H = 3 must be a multiple of Hk");
    fails(&dense("B=1,H=two"), 2, "a size is a whole number");
    fails(&dense("B=1,H=2,Lq=0,D=4"), 2, "a size is a whole number");
    fails(&dense("B=2147483647,H=2147483647,Lq=2147483647,D=2147483647"), 2, "beyond any device");
    fails(&[&dense("B=1,H=2,Lq=8,D=4")[..], &["--with", "music"]].concat(), 2, "`music` is no input");
    fails(&[&dense("B=1,H=2,Lq=8,D=4")[..], &["--param", "pattern=spiral"]].concat(), 2, "expected one of");
    fails(&[&dense("B=1,H=2,Lq=8,D=4")[..], &["--param", "scale"]].concat(), 2, "is not NAME=VALUE");
}

#[test]
fn run_then_verify_round_trip() {
    let folder = folder("round-trip");
    let source = golden("dense/dense-attention/c1.safetensors");
    let result = folder.join("result.safetensors");
    let stdout = good(&["run", utf8(&source), "--out", utf8(&result), "--engine", "cpu"]);
    assert!(stdout.contains("out F32") && stdout.contains("lse F32"), "{stdout}");
    // A new case that expects what was computed.
    let case = Case::parse(&std::fs::read(&source).expect("the case"), None).expect("a case");
    let outputs = Case::parse(&std::fs::read(&result).expect("the result"), None).expect("a result").inputs;
    let expect = |factor: f32| -> Vec<u8> {
        let scaled = |t: &HostTensor| {
            HostTensor::new(t.shape(), t.to_f32().iter().map(|x| x * factor).collect::<Vec<_>>()).expect("a tensor")
        };
        let mut tensors = case.inputs.clone();
        tensors.extend(outputs.iter().map(|(name, t)| (format!("expected.{name}"), scaled(t))));
        let tolerance = r#"{"out": {"max_abs_over_max_ref": 1e-6}, "lse": {"abs": 1e-6}}"#;
        case::write(tensors.iter().map(|(n, t)| (n.as_str(), t)), metadata(&case, tolerance)).expect("a file")
    };
    let same = folder.join("cases/same.safetensors");
    std::fs::create_dir_all(folder.join("cases")).expect("a folder");
    std::fs::write(&same, expect(1.0)).expect("a file");
    let stdout = good(&["verify", utf8(&folder.join("cases")), "--engine", "cpu"]);
    assert!(stdout.starts_with("same.safetensors  cpu"), "{stdout}");
    assert!(stdout.ends_with("1 passed, 0 failed\n"), "{stdout}");
    std::fs::write(folder.join("cases/other.safetensors"), expect(1.01)).expect("a file");
    let output = run(&["verify", utf8(&folder.join("cases")), "--engine", "cpu"]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("(!)") && stdout.ends_with("1 passed, 1 failed\n"), "{stdout}");
}

#[test]
fn run_takes_plain_files_and_overrides() {
    let folder = folder("plain");
    let (plain, result) = (folder.join("plain.safetensors"), folder.join("result.safetensors"));
    let q = HostTensor::from_fn(&[1, 2, 4, 8], |i| (i as f32 * 0.37).sin());
    std::fs::write(&plain, case::write([("q", &q), ("k", &q), ("v", &q)], BTreeMap::new()).expect("a file"))
        .expect("a file");
    let call = |more: &[&str]| run(&[&["run", utf8(&plain), "--out", utf8(&result), "--engine", "cpu"], more].concat());
    let output = call(&["--variant", "dense-attention", "--param", "pattern=causal_self"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let outputs = Case::parse(&std::fs::read(&result).expect("the result"), None).expect("a result");
    let out = outputs.inputs.iter().find(|(n, _)| n == "out").map(|(_, t)| t.to_f32()).expect("out");
    // A causal first row sees itself only.
    let first = q.to_f32();
    assert!(out[..8].iter().zip(&first).all(|(x, want)| (x - want).abs() < 1e-5), "{:?}", &out[..8]);
    let output = call(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no variant in its metadata"), "{}", text(&output.stderr));
}

#[test]
fn run_tells_why_not() {
    let folder = folder("refused");
    let (source, junk) = (golden("dense/dense-attention/c1.safetensors"), folder.join("junk.safetensors"));
    std::fs::write(&junk, b"not a file of tensors").expect("a file");
    let result = folder.join("result.safetensors");
    let call = |case: &Path, more: &[&'static str]| -> Vec<String> {
        let base = ["run", utf8(case), "--out", utf8(&result)];
        base.iter().chain(more).map(|s| (*s).to_owned()).collect()
    };
    let fails = |args: Vec<String>, status, message| {
        fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), status, message)
    };
    fails(call(&folder.join("absent"), &[]), 2, "absent: ");
    fails(call(&junk, &[]), 2, "not a safetensors file");
    fails(call(&source, &["--variant", "no-attention"]), 3, "no variant is called `no-attention`");
    fails(call(&source, &["--param", "colour=red"]), 2, "no parameter is called `colour`");
    fails(call(&source, &["--engine", "gpu"]), 4, "no GPU adapter fits");
    fails(call(&source, &["--adapter", "voodoo"]), 4, "no GPU adapter fits");
    fails(call(&source, &["--engine", "cpu", "--adapter", "voodoo"]), 2, "give one of the two");
    fails(call(&source, &["--engine", "abacus"]), 2, "abacus");
    assert!(!result.exists(), "a refused run wrote a result");
}

#[test]
fn auto_says_on_stderr_what_it_took() {
    let folder = folder("auto");
    let output = run(&[
        "run",
        utf8(&golden("dense/dense-attention/c1.safetensors")),
        "--out",
        utf8(&folder.join("r.safetensors")),
    ]);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("engine: "), "{}", text(&output.stderr));
}

#[test]
fn verify_counts_unknown_variants_and_bad_files() {
    let folder = folder("mixed");
    let source = golden("dense/dense-attention/c1.safetensors");
    std::fs::copy(&source, folder.join("good.safetensors")).expect("a copy");
    let mut case = Case::parse(&std::fs::read(&source).expect("the case"), None).expect("a case");
    case.variant = "attention-of-tomorrow".into();
    let bytes = case::write(case.inputs.iter().map(|(n, t)| (n.as_str(), t)), metadata(&case, "{}")).expect("a file");
    std::fs::write(folder.join("new.safetensors"), bytes).expect("a file");
    let stdout = good(&["verify", utf8(&folder), "--engine", "cpu"]);
    assert!(stdout.ends_with("1 passed, 0 failed, 1 of unknown variants\n"), "{stdout}");
    std::fs::write(folder.join("torn.safetensors"), b"torn").expect("a file");
    let output = run(&["verify", utf8(&folder), "--engine", "cpu"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).ends_with("1 passed, 1 failed, 1 of unknown variants\n"), "{}", text(&output.stdout));
    fails(&["verify", utf8(&folder.join("absent"))], 2, "absent");
    fails(&["verify", utf8(&folder), "--engine", "voodoo"], 4, "no GPU adapter fits");
}

#[test]
fn bench_measures_what_it_checked() {
    let folder = folder("bench");
    let log = folder.join("rows.jsonl");
    let stdout =
        good(&["bench", "V1-causal", "v1-decode", "--engine", "cpu", "--seconds", "0.3", "--json", utf8(&log)]);
    assert!(stdout.contains("ceilings measured now") && stdout.contains("V1-causal"), "{stdout}");
    let rows: Vec<Value> = std::fs::read_to_string(&log)
        .expect("rows")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in &rows {
        assert_eq!(row["checked"]["passed"], true, "{row}");
        assert!(row["ms"]["median"].as_f64().is_some_and(|ms| ms > 0.0), "{row}");
        assert!(row["gflops"].is_number() && row["ceilings"]["copy_gbs"].is_number(), "{row}");
    }
    // 2 B H pairs (D + Dv), pairs 256 · 257 / 2.
    assert_eq!(rows[0]["gflop"], 0.06737, "{}", rows[0]);
    let same = good(&["bench", "compare", utf8(&log), utf8(&log)]);
    assert!(same.contains("1.00x"), "{same}");
    let peers = folder.join("peers.jsonl");
    std::fs::write(&peers, "noise of a tool\n{\"name\": \"V1\", \"peer\": \"other_causal\", \"ms\": 1e9}\n{\"name\": \"V1\", \"peer\": \"other\", \"err\": \"none\"}\n")
        .expect("a file");
    let ratios = good(&["bench", "compare", utf8(&log), utf8(&peers)]);
    assert!(ratios.contains("other_causal") && ratios.contains("no peer for: V1-decode"), "{ratios}");
}

#[test]
fn bench_knows_its_workloads() {
    let stdout = good(&["bench", "--list"]);
    for id in [
        "P1 ",
        "P10 ",
        "X1 ",
        "G4 ",
        "S1@0.05 ",
        "S2 ",
        "N4 ",
        "L1-retention ",
        "L4 ",
        "M1-documents ",
        "M2@packed ",
        "M4-documents-call ",
        "C7 ",
        "V1-full ",
    ] {
        assert!(stdout.contains(&format!("\n{id}")) || stdout.starts_with(id), "{id} is not in: {stdout}");
    }
    // The figures of the protocol: P1 is 1099.5 GFLOP, P5 is 2199, N4 is 91.4.
    for (id, gflop) in [("P1 ", " 1100 "), ("P5 ", " 2199 "), ("N4 ", " 91.4 ")] {
        let line = stdout.lines().find(|l| l.starts_with(id)).expect("a line");
        assert!(line.contains(gflop), "{line}");
    }
    fails(&["bench", "Q9"], 2, "no workload is called `Q9`");
    fails(&["bench", "C1", "--seconds", "-1"], 2, "seconds above 0");
    fails(&["bench", "C1", "--json", "/nowhere/rows.jsonl"], 2, "/nowhere/rows.jsonl");
    fails(&["bench", "--engine", "gpu"], 4, "no GPU adapter fits");
    fails(&["bench", "P1", "--kernels", "here", "--engine", "cpu"], 2, "--kernels is of GPUs");
    fails(&["bench", "P1", "--checked", "--engine", "cpu"], 2, "--checked is of GPUs");
}

#[test]
fn bench_draws_a_plot() {
    let file = folder("plot").join("curves.svg");
    good(&["bench", "--engine", "cpu", "--seconds", "0.1", "--plot", utf8(&file), "64,128"]);
    let svg = std::fs::read_to_string(&file).expect("a drawing");
    assert!(svg.contains("<svg") && svg.contains("streaming"), "{svg}");
    fails(&["bench", "--plot", utf8(&file), "12,many"], 2, "is not a length");
}

#[test]
fn bench_fits_an_exponent() {
    let log = folder("exponent").join("rows.jsonl");
    let stdout = good(&["bench", "--exponent", "--engine", "cpu", "--seconds", "0.1", "--json", utf8(&log)]);
    assert!(stdout.contains("the time of linear attention grows as L^"), "{stdout}");
    assert!(stdout.contains("crossover: "), "{stdout}");
    let text = std::fs::read_to_string(&log).expect("rows");
    let last: Value = serde_json::from_str(text.lines().last().expect("a row")).expect("JSON");
    assert_eq!(last["workload"], "L-exponent", "{last}");
    assert!(last["exponent"].as_f64().is_some_and(|e| (0.5..1.5).contains(&e)), "{last}");
    assert_eq!(last["lengths"].as_array().map(Vec::len), Some(6), "{last}");
    fails(&["bench", "--exponent", "C1"], 2, "cannot be used with");
}

#[test]
fn bench_counts_the_tiles_of_documents() {
    let log = folder("documents").join("rows.jsonl");
    let rows = ["bench", "M3@packed", "M3-documents", "M3-documents-call", "--engine", "cpu", "--seconds", "0.2"];
    good(&[&rows[..], &["--json", utf8(&log)]].concat());
    let text = std::fs::read_to_string(&log).expect("rows");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 3, "{text}");
    for row in &rows {
        assert_eq!(row["checked"]["passed"], true, "{row}");
        let tiles = |name: &str| row[name].as_u64().expect(name);
        assert!(tiles("tiles_dense") >= 8 * tiles("tiles_visited"), "{row}");
        assert_eq!(row["over_ideal"].is_number(), row["workload"] != "M3@packed", "{row}");
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child =
        program(&["list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    // Closed before the first line is read: most lines meet a pipe without a reader.
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut stderr).expect("UTF-8");
    assert!(child.wait().expect("an exit status").success(), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn help_and_mistyped_commands() {
    assert!(good(&["--help"]).contains("Exit status: 0 done"));
    fails(&["frobnicate"], 2, "unrecognized subcommand");
    fails(&[], 2, "Usage");
}

#[test]
fn hooks_from_files() {
    let folder = folder("hooks");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a writable folder");
        path
    };
    let score = write(
        "score.wgsl",
        "fn score(s: f32, at: At, bias: f32, kind: i32) -> f32 {\n    return s + bias * f32(kind);\n}",
    );
    let wrong = write("wrong.wgsl", "fn score(s: f32, at: At) -> f32 {\n    return s * at.key;\n}");
    let same = write("same.wgsl", "fn mask(at: At, doc_q: i32, doc_k: i32) -> bool {\n    return doc_q == doc_k;\n}");

    // A case with one more tensor, which only the hook takes.
    let ones = |shape: &[usize]| HostTensor::from_fn(shape, |_| 1.0);
    let zeros = HostTensor::zeros(&[1, 1, 2, 4]);
    let values = HostTensor::new(&[1, 1, 3, 1], vec![0.0_f32, 3.0, 9.0]).expect("three values");
    let kinds = HostTensor::new(&[3], vec![0_i32, 1, 2]).expect("three kinds");
    let tensors = [("q", &zeros), ("k", &ones(&[1, 1, 3, 4])), ("v", &values), ("kind", &kinds)];
    let metadata = BTreeMap::from([("variant".to_owned(), "dense-attention".to_owned())]);
    let case_file = folder.join("case.safetensors");
    std::fs::write(&case_file, case::write(tensors, metadata).expect("a case")).expect("a writable folder");
    let result = folder.join("result.safetensors");
    let args = ["run", utf8(&case_file), "--engine", "cpu", "--out", utf8(&result), "--score", utf8(&score)];
    good(&[&args[..], &["--arg", "bias=100", "--arg", "kind=kind@keys"]].concat());
    let bytes = std::fs::read(&result).expect("a result");
    let got = Case::parse(&bytes, Some("dense-attention")).expect("a result");
    let out = got.inputs.iter().find(|(name, _)| name == "out").expect("out");
    // Key 2 wins by e^100.
    assert_eq!(out.1.to_f64(), [9.0, 9.0]);
    fails(&[&args[..], &["--arg", "bias=100"]].concat(), 2, "no input is called `kind`");
    fails(&[&args[..], &["--arg", "bas=100"]].concat(), 2, "no hook has an argument `bas`; they have bias, kind");
    fails(&[&args[..], &["--arg", "kind=1.5"]].concat(), 2, "1.5 is no i32");
    fails(&[&args[..], &["--arg", "kind=kind@key"]].concat(), 2, "heads, queries, keys or pairs");

    let shape = "B=1,H=2,Lq=512,D=16";
    fails(
        &["plan", "dense-attention", "--shape", shape, "--score", utf8(&wrong)],
        2,
        "wrong.wgsl: score hook, line 2, column 12: Multiply of f32 and i32",
    );
    let explain = |documents: &str| {
        good(&[
            "plan",
            "dense-attention",
            "--shape",
            shape,
            "--mask",
            utf8(&same),
            "--arg",
            &format!("doc_q={documents}@queries"),
            "--arg",
            &format!("doc_k={documents}@keys"),
            "--explain",
        ])
    };
    let text = explain("[0x256,1x256]");
    assert!(text.contains("leaves every row one range of keys: bounds of the rows"), "{text}");
    assert!(text.contains("kernels for tier T0") && text.contains("not attend/matrix: the device has no"), "{text}");
    let text = explain("[0x128,1x128,0x128,1x128]");
    assert!(text.contains("16 empty (skipped), 0 mixed, 16 full (no mask asked), of 32"), "{text}");
    assert!(text.contains("\n##..##..\n..##..##\n##..##..\n..##..##\n"), "{text}");
}

#[test]
fn diagnose_draws_every_format() {
    let out = folder("diagnose");
    let calibration = golden("dense/attention-calibration/c1.safetensors");
    for (name, start) in [("a.svg", &b"<svg"[..]), ("a.png", &b"\x89PNG"[..]), ("a.html", &b"<!doctype html>"[..])] {
        let file = out.join(name);
        let stdout = good(&[
            "diagnose",
            utf8(&calibration),
            "--out",
            utf8(&file),
            "--engine",
            "cpu",
            "--causal",
            "--needle",
            "3..7",
        ]);
        assert!(stdout.contains("entropy") && stdout.contains("needle found"), "{stdout}");
        let bytes = std::fs::read(&file).expect("the picture");
        assert!(bytes.starts_with(start), "{name} starts with {:?}", &bytes[..16]);
    }
    let svg = std::fs::read_to_string(out.join("a.svg")).expect("the drawing");
    for words in ["head 2", "sink above 0.3", "not allowed", "attention-calibration"] {
        assert!(svg.contains(words), "no `{words}`");
    }
    let html = std::fs::read_to_string(out.join("a.html")).expect("the report");
    assert!(html.contains("<table>") && html.contains("<svg"), "{}", &html[..400]);
}

#[test]
fn diagnose_reads_weights_and_scores_retrieval() {
    let out = folder("diagnose_weights");
    let case = golden("dense/retrieval-score/c2.safetensors");
    let stdout = good(&["diagnose", utf8(&case), "--out", utf8(&out.join("a.svg")), "--engine", "cpu"]);
    let bytes = std::fs::read(&case).expect("a case");
    let want = Case::parse(&bytes, None).expect("a case file");
    let (_, score, _) = want.expected.iter().find(|(name, ..)| name == "score").expect("a score");
    for (row, score) in stdout.lines().skip(1).zip(score.to_f64()) {
        assert!(row.ends_with(&format!("{score:.3}")), "{row}: wanted {score:.3}");
    }
    let flow = golden("dense/attention-flow/c1.safetensors");
    good(&[
        "diagnose",
        utf8(&flow),
        "--out",
        utf8(&out.join("b.svg")),
        "--engine",
        "cpu",
        "--layer",
        "1",
        "--rows",
        "0,8",
    ]);
}

#[test]
fn diagnose_refuses_what_it_can_not_draw() {
    let out = folder("diagnose_refused");
    let case = golden("dense/attention-calibration/c1.safetensors");
    let (case, file) = (utf8(&case), out.join("a.svg"));
    let file = utf8(&file);
    fails(&["diagnose", case, "--out", "a.gif"], 2, "the ending is none of .svg, .png, .html");
    fails(&["diagnose", case, "--out", file, "--engine", "cpu", "--rows", "99"], 2, "--rows: 99 is not below 33");
    fails(&["diagnose", case, "--out", file, "--engine", "cpu", "--heads", "3"], 2, "--heads: 3 is not below 3");
    fails(&["diagnose", case, "--out", file, "--engine", "cpu", "--needle", "5..99"], 2, "--needle ends at 99");
    fails(&["diagnose", case, "--out", file, "--needle", "5..5"], 2, "START < END");
    let other = golden("dense/reversed-message/c1.safetensors");
    fails(&["diagnose", utf8(&other), "--out", file, "--engine", "cpu"], 2, "diagnose takes `q` and `k`");
}
