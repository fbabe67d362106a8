//! Every key that the golden cases reach: its text parses, validates, has the bindings that the key lists, and translates to SPIR-V, MSL
//! and HLSL. One composed text a kernel is a snapshot. That browsers accept them is the web test's claim.

mod common;

use common::golden;
use std::collections::BTreeMap;
use wgpu_attention::caps::{Caps, Target};
use wgpu_attention::case::Case;
use wgpu_attention::kernel::key::KernelKey;
use wgpu_attention::{Problem, Spec, runtime, shader};

/// The distinct keys of the golden cases.
fn keys() -> Vec<KernelKey> {
    let caps = Caps::portable(Target::Native);
    let mut keys: Vec<KernelKey> = Vec::new();
    for (path, bytes) in golden() {
        let case = Case::parse(&bytes, None).expect("a case file");
        let variant = case.make(&[]).expect("a variant");
        let specs = case.inputs.iter().map(|(n, t)| (n.as_str(), Spec { dtype: t.dtype(), shape: t.shape().to_vec() }));
        let problem = Problem::new(&*variant, specs).expect("a problem");
        let plan = runtime::plan(&*variant, &problem).unwrap_or_else(|e| panic!("{path}: {e}"));
        let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        for n in 0..plan.stages.len() {
            let launch = plan.stages[n]
                .op
                .kernel()
                .launch(&plan.io(n, &layouts), &caps)
                .unwrap_or_else(|e| panic!("{path}: {e}"));
            if !keys.contains(&launch.key) {
                keys.push(launch.key);
            }
        }
    }
    keys
}

fn validate(text: &str, label: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{label}:\n{}", e.emit_to_string(text)));
    let mut validator = naga::valid::Validator::new(
        naga::valid::ValidationFlags::all(),
        naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32,
    );
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{label}:\n{}", e.emit_to_string(text)));
    (module, info)
}

#[test]
fn every_key_validates_with_its_bindings() {
    for key in keys() {
        let label = key.label();
        let text = shader::compose(&key).expect("a composed shader");
        let (module, _) = validate(&text, &label);
        let mut found: Vec<(u32, String)> = module
            .global_variables
            .iter()
            .filter_map(|(_, v)| Some((v.binding.as_ref()?.binding, v.name.clone()?)))
            .collect();
        found.sort();
        let mut want = vec![(0, "args".to_owned())];
        want.extend(key.bindings().iter().enumerate().map(|(n, (name, _))| (n as u32 + 1, format!("{name}_data"))));
        assert_eq!(found, want, "{label}");
        assert!(want.len() <= 9, "{label}: more storage bindings than every device has");
        let memory: u32 = module
            .global_variables
            .iter()
            .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
            .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
            .sum();
        assert!(memory <= 16 << 10, "{label}: {memory} bytes of workgroup memory");
        assert!(key.workgroup <= 256, "{label}");
    }
}

#[test]
fn every_key_translates() {
    for key in keys() {
        let label = key.label();
        let text = shader::compose(&key).expect("a composed shader");
        let (module, info) = validate(&text, &label);
        let spv = naga::back::spv::Options { fake_missing_bindings: true, ..Default::default() };
        naga::back::spv::write_vec(&module, &info, &spv, None).unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
        msl(&module, &info, &label);
        hlsl(&module, &info, &label);
    }
}

fn msl(module: &naga::Module, info: &naga::valid::ModuleInfo, label: &str) -> String {
    let options = naga::back::msl::Options { fake_missing_bindings: true, lang_version: (2, 3), ..Default::default() };
    let (text, _) = naga::back::msl::write_string(module, info, &options, &Default::default())
        .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
    text
}

fn hlsl(module: &naga::Module, info: &naga::valid::ModuleInfo, label: &str) -> String {
    let mut text = String::new();
    let options = naga::back::hlsl::Options {
        fake_missing_bindings: true,
        shader_model: naga::back::hlsl::ShaderModel::V6_2,
        ..Default::default()
    };
    let pipeline = naga::back::hlsl::PipelineOptions::default();
    naga::back::hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
    text
}

#[test]
fn composed_text_of_each_kernel() {
    if std::env::var("ATTN_TEST").is_ok() {
        println!("not covered: snapshots of composed text, because ATTN_TEST keeps only a part of the cases");
        return;
    }
    let mut first: BTreeMap<&str, KernelKey> = BTreeMap::new();
    for key in keys() {
        first.entry(key.entry).or_insert(key);
    }
    for (entry, key) in first {
        let name = entry.replace('/', "_");
        let text = shader::compose(&key).expect("a composed shader");
        let (module, info) = validate(&text, entry);
        insta::assert_snapshot!(format!("{name}.wgsl"), text);
        insta::assert_snapshot!(format!("{name}.msl"), msl(&module, &info, entry));
        insta::assert_snapshot!(format!("{name}.hlsl"), hlsl(&module, &info, entry));
    }
}

/// A device with square cooperative matrices of `side`, as on NVIDIA (16, subgroups of 32) or in lavapipe (8, subgroups of 8).
fn matrix_caps(side: u32, lanes: u32) -> Caps {
    Caps {
        tier: wgpu_attention::caps::Tier::T2,
        f16: true,
        subgroups: Some((lanes, lanes)),
        matrix: Some(side),
        max_workgroup_memory: 48 << 10,
        max_invocations: 1024,
        ..Caps::portable(Target::Native)
    }
}

/// The text of a key with matrices validates, translates to SPIR-V and fits its workgroup memory.
fn matrix_key(key: &KernelKey) {
    let text = shader::compose(key).expect("a composed shader");
    assert!(!text.contains("// unroll"), "a marked loop was not unrolled:\n{text}");
    let memory = matrix_text(&text);
    assert!(memory <= 48 << 10, "{}: {memory} bytes of workgroup memory", key.entry);
}

#[test]
fn matrix_keys_validate_and_translate() {
    use wgpu_attention::variants::dense::DenseAttention;
    for (side, lanes) in [(16, 32), (8, 8), (8, 32)] {
        for (depth, width) in [(64, 64), (128, 128), (72, 40)] {
            let variant = DenseAttention::default();
            let sizes = [("B", 1), ("H", 4), ("Lq", 500), ("D", depth), ("Dv", width)].map(|(n, s)| (n.to_owned(), s));
            let problem = Problem::from_sizes(&variant, &sizes, true, &["mask", "bias"]).expect("a problem");
            let plan = runtime::plan(&variant, &problem).expect("a plan");
            let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
            let launch =
                plan.stages[0].op.kernel().launch(&plan.io(0, &layouts), &matrix_caps(side, lanes)).expect("a launch");
            assert_eq!(launch.key.entry, "attend/matrix");
            matrix_key(&launch.key);
        }
    }
}

#[test]
fn keys_of_decode_by_matrices_validate_and_translate() {
    use wgpu_attention::variants::dense::DenseAttention;
    for (side, lanes) in [(16, 32), (16, 16), (8, 8), (8, 16)] {
        for (depth, width) in [(64, 64), (128, 128), (72, 40)] {
            let variant = DenseAttention::default();
            let sizes = [("B", 1), ("H", 8), ("Hk", 2), ("Lq", 1), ("Lk", 500), ("D", depth), ("Dv", width)];
            let sizes = sizes.map(|(n, s)| (n.to_owned(), s));
            let problem = Problem::from_sizes(&variant, &sizes, true, &["bias", "lengths"]).expect("a problem");
            let plan = runtime::plan(&variant, &problem).expect("a plan");
            let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
            let (caps, io) = (matrix_caps(side, lanes), plan.io(0, &layouts));
            let launches =
                (0..).map_while(|n| plan.stages[0].op.kernel().alternative(n, &io, &caps).expect("a launch"));
            let mut keys = launches.map(|launch| launch.key).filter(|key| key.entry == "attend/decode_matrix");
            matrix_key(&keys.next().expect("it is offered"));
        }
    }
}

#[test]
fn keys_of_scans_by_matrices_validate_and_translate() {
    use wgpu_attention::plan::PlanBuilder;
    use wgpu_attention::variants::linear::{DeltaNet, GatedDeltaNet, GatedLinearAttention, LinearAttention, Retention};
    let decays = [&["log_decay"][..], &[]];
    let variants: [(&dyn wgpu_attention::Variant, &[&str], &str); 5] = [
        (&LinearAttention::default(), &["key_mask", "state", "z"], "scan/reads"),
        (&Retention::default(), &["gate"], "scan/matrix"),
        (&GatedLinearAttention::default(), decays[0], "scan/matrix"),
        (&DeltaNet::default(), decays[1], "scan/delta"),
        (&GatedDeltaNet::default(), decays[0], "scan/delta"),
    ];
    for (side, lanes) in [(16, 32), (8, 8), (8, 32)] {
        let caps = Caps { max_storage_bindings: 16, ..matrix_caps(side, lanes) };
        for (depth, width, length) in [(64, 64, 500), (128, 128, 5000), (72, 40, 100), (20, 8, 100)] {
            for (variant, given, entry) in variants {
                let sizes =
                    [("B", 1), ("H", 4), ("L", length), ("D", depth), ("Dv", width)].map(|(n, s)| (n.to_owned(), s));
                let problem = Problem::from_sizes(variant, &sizes, true, given).expect("a problem");
                let problem = if entry == "scan/matrix" { channels(&problem, variant) } else { problem };
                let mut builder = PlanBuilder::new(&problem).on(&caps);
                variant.plan(&problem, &mut builder).expect("a plan");
                let plan = builder.finish().expect("a plan");
                let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
                let launch = |n: usize| plan.stages[n].op.kernel().launch(&plan.io(n, &layouts), &caps);
                let keys: Vec<KernelKey> = (0..plan.stages.len()).map(|n| launch(n).expect("a launch").key).collect();
                let matrices: Vec<_> = keys.iter().filter(|k| k.tier == wgpu_attention::caps::Tier::T2).collect();
                assert!(
                    matrices.iter().any(|k| k.entry == entry),
                    "{variant:?} took {:?}",
                    keys.iter().map(|k| k.entry).collect::<Vec<_>>()
                );
                matrices.into_iter().for_each(matrix_key);
            }
        }
    }
}

/// The same with a log decay a channel.
fn channels(problem: &Problem, variant: &dyn wgpu_attention::Variant) -> Problem {
    let key = problem.input("k").expect("keys").shape.clone();
    let specs = problem.inputs().map(|(name, spec)| match name {
        "log_decay" => (name, wgpu_attention::Spec { shape: key.clone(), dtype: spec.dtype }),
        _ => (name, spec.clone()),
    });
    Problem::new(variant, specs).expect("a problem")
}

/// Parses, validates and translates a text for cooperative matrices; bytes of workgroup memory.
fn matrix_text(text: &str) -> u32 {
    let options =
        naga::front::wgsl::Options { parse_doc_comments: false, capabilities: naga::valid::Capabilities::all() };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let options = naga::back::spv::Options { fake_missing_bindings: true, lang_version: (1, 6), ..Default::default() };
    naga::back::spv::write_vec(&module, &info, &options, None).expect("SPIR-V");
    let memory = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    memory.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum()
}

#[test]
fn records_of_chunks_validate_and_translate() {
    use wgpu_attention::kernel::scan::{Chunks, Decay};
    use wgpu_attention::kernel::{Io, Kernel, Meta, TableMeta, key::Place, key::ScalarType};
    use wgpu_attention::{DType, Layout};
    let meta = |dtype, shape: &[usize]| Meta { dtype, layout: Layout::contiguous(shape) };
    for (side, lanes) in [(16, 32), (8, 8), (8, 32)] {
        for depth in [20_usize, 64, 128] {
            for (decay, delta) in
                [(Decay::None, false), (Decay::None, true), (Decay::Scalar, false), (Decay::Scalar, true)]
            {
                let wide = depth.next_power_of_two().max(32);
                let record = if delta { 96 * wide + 2048 } else { 64 * wide + 1024 };
                let mut io = Io::default();
                io.roles.extend(["q", "k"].map(|role| (role, meta(DType::F16, &[1, 2, 70, depth]))));
                io.roles.push(("chunks", meta(DType::F16, &[1, 2, 3, record])));
                io.roles.push(("marks", meta(DType::F32, &[1, 2, 3, 2 * wide + 32])));
                let table = |name: &str, result, dtype| {
                    let layout = Layout::contiguous(&[1, 2, 70, 1]);
                    TableMeta { name: name.into(), result, place: Place::Side, meta: Meta { dtype, layout } }
                };
                if decay == Decay::Scalar {
                    io.tables.push(table("g_scalar", ScalarType::F32, DType::F32));
                    io.tables.push(table("keep", ScalarType::Bool, DType::U8));
                }
                io.tables.extend(delta.then(|| table("w", ScalarType::F32, DType::F32)));
                let op = Chunks::new(decay, delta, 1.0);
                let key = op.launch(&io, &matrix_caps(side, lanes)).expect("a launch").key;
                assert_eq!(key.entry, "scan/chunks");
                let text = shader::compose(&key).expect("a composed shader");
                assert!(!text.contains("// unroll"), "a marked loop was not unrolled:\n{text}");
                // Three at a time on a processor of 48 KiB.
                assert!(matrix_text(&text) <= 16 << 10);
                if (side, depth, decay, delta) == (16, 20, Decay::Scalar, true) {
                    insta::assert_snapshot!("scan_chunks.wgsl", text);
                }
            }
        }
    }
}

#[test]
fn variables_inside_blocks_have_initializers() {
    // WGSL zeroes a variable each time its declaration is reached; Chromium 156 on SwiftShader and older naga do so only once, so that a
    // sum declared in a loop keeps the last iteration's value.
    let mut wrong = Vec::new();
    for (file, text) in shader::FILES {
        let mut depth = 0;
        for (n, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if depth > 1 && code.trim_start().starts_with("var ") && !code.contains('=') {
                wrong.push(format!("{file}.wgsl:{}: {}", n + 1, code.trim()));
            }
            depth += code.matches('{').count();
            depth -= code.matches('}').count();
        }
    }
    assert!(wrong.is_empty(), "no initializer:\n{}", wrong.join("\n"));
}

#[test]
fn hooked_keys_validate_and_translate() {
    use wgpu_attention::variants::dense::DenseAttention;
    use wgpu_attention::{Hooked, UserHook};
    let text = "fn mask(at: At) -> bool { return (at.query - at.key) % 3 == 0; }";
    let variant = Hooked::new(DenseAttention::default()).hook(UserHook::mask(text).expect("a hook"));
    let sizes = [("B", 1), ("H", 4), ("Hk", 2), ("Lq", 500), ("D", 64)].map(|(n, s)| (n.to_owned(), s));
    let problem = Problem::from_sizes(&variant, &sizes, true, &[]).expect("a problem");
    let plan = runtime::plan(&variant, &problem).expect("a plan");
    let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
    for caps in [Caps::portable(Target::Native), matrix_caps(16, 32), matrix_caps(8, 8)] {
        for n in 0..plan.stages.len() {
            let key = plan.stages[n].op.kernel().launch(&plan.io(n, &layouts), &caps).expect("a launch").key;
            let text = shader::compose(&key).expect("a composed shader");
            let options = naga::front::wgsl::Options {
                parse_doc_comments: false,
                capabilities: naga::valid::Capabilities::all(),
            };
            let module = naga::front::wgsl::Frontend::new_with_options(options)
                .parse(&text)
                .unwrap_or_else(|e| panic!("{}: {}", key.entry, e.emit_to_string(&text)));
            let mut validator =
                naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
            let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
            let options =
                naga::back::spv::Options { fake_missing_bindings: true, lang_version: (1, 6), ..Default::default() };
            naga::back::spv::write_vec(&module, &info, &options, None).expect("SPIR-V");
            if key.entry == "select/block_map" {
                insta::assert_snapshot!("select_block_map.wgsl", text);
            }
        }
    }
}

#[test]
fn values_do_not_enter_the_key() {
    use wgpu_attention::variants::dense::DenseAttention;
    let key = |batch: usize, heads: usize, length: usize, window: usize| {
        let variant = DenseAttention { window_left: Some(window), ..Default::default() };
        let sizes = [("B", batch), ("H", heads), ("Lq", length), ("D", 64)].map(|(n, s)| (n.to_owned(), s));
        let problem = Problem::from_sizes(&variant, &sizes, false, &[]).expect("a problem");
        let plan = runtime::plan(&variant, &problem).expect("a plan");
        let layouts: Vec<_> = plan.slots.iter().map(|s| s.layout.clone()).collect();
        plan.stages[0].op.kernel().launch(&plan.io(0, &layouts), &Caps::portable(Target::Native)).expect("a launch").key
    };
    // Tiles are chosen by classes of the number of rows; within one, nothing recompiles.
    assert_eq!(key(1, 1, 70, 3), key(2, 8, 4096, 1000));
    assert_eq!(key(1, 1, 20, 3), key(2, 8, 31, 1000));
}
