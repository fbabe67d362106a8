//! The runtime around the kernels: layouts without copies, a caller's device and encoder, memory, caches, limits.

mod common;

use common::{engines, random};
use wgpu_attention::gpu::GpuOptions;
use wgpu_attention::variants::dense::{DenseAttention, SplitKvDecode};
use wgpu_attention::variants::linear::FeatureMaps;
use wgpu_attention::variants::{FeatureMap, Pattern};
use wgpu_attention::{DType, Engine, Error, ErrorKind, HostTensor, Inputs, Layout, Runtime, Tensor, wgpu};

fn inputs(q: &HostTensor, k: &HostTensor, v: &HostTensor) -> Inputs {
    Inputs::new().with("q", q).with("k", k).with("v", v)
}

fn gpus() -> Vec<(&'static str, Runtime)> {
    engines().into_iter().filter(|(_, r)| matches!(r.engine(), Engine::Gpu(_))).collect()
}

/// A device that no other test allocates on, for a shared one. The CPU engine is what it was.
fn own_device(name: &str, shared: Runtime) -> Runtime {
    if name == "cpu" {
        return shared;
    }
    let adapter = (name != "gpu").then(|| name.to_owned());
    Runtime::gpu_blocking(&GpuOptions { adapter, ..Default::default() }).expect(name)
}

#[test]
fn strided_equals_contiguous() {
    // (B, L, H, D) memory seen as (B, H, L, D).
    let stored = [random(&[2, 33, 4, 20], 1), random(&[2, 65, 2, 20], 2), random(&[2, 65, 2, 12], 3)];
    let [q, k, v] = stored.each_ref().map(|t| t.permute(&[0, 2, 1, 3]));
    let variant = DenseAttention { pattern: Pattern::CausalCross, ..Default::default() };
    for (name, runtime) in engines() {
        let strided = runtime.call_blocking(&variant, &inputs(&q, &k, &v)).expect(name);
        let whole = inputs(&q.contiguous(), &k.contiguous(), &v.contiguous());
        let whole = runtime.call_blocking(&variant, &whole).expect(name);
        assert!(strided.get("out").unwrap().to_f32() == whole.get("out").unwrap().to_f32(), "{name}");
    }
}

#[test]
fn callers_buffers_are_used_in_place_at_any_offset() {
    for (name, runtime) in gpus() {
        let Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        let (device, queue) = engine.device();
        // q, k and v lie in one buffer, at offsets that no binding may have.
        let parts = [random(&[1, 2, 9, 8], 1), random(&[1, 2, 9, 8], 2), random(&[1, 2, 9, 8], 3)];
        let bytes = 2 * 9 * 8 * 4;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let size = 3 * bytes + 64;
        let buffer =
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        let tensors: Vec<Tensor> = parts
            .iter()
            .enumerate()
            .map(|(n, part)| {
                let offset = 20 + n as u64 * bytes;
                queue.write_buffer(&buffer, offset, part.data().bytes());
                Tensor::from_buffer(&buffer, offset, bytes, DType::F32, Layout::contiguous(part.shape())).expect(name)
            })
            .collect();
        let theirs = Runtime::from_wgpu(device, queue, None).expect(name);
        let call = Inputs::new().with("q", &tensors[0]).with("k", &tensors[1]).with("v", &tensors[2]);
        let prepared =
            theirs.prepare_blocking(theirs.plan(&DenseAttention::default(), &call).expect(name)).expect(name);
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let outputs = theirs.encode(&prepared, &call, &mut encoder).expect(name);
        queue.submit([encoder.finish()]);
        let got = theirs.read_blocking(outputs.get("out").unwrap()).expect(name);
        let want =
            runtime.call_blocking(&DenseAttention::default(), &inputs(&parts[0], &parts[1], &parts[2])).expect(name);
        assert!(got.to_f32() == want.get("out").unwrap().to_f32(), "{name}");
    }
}

#[test]
fn a_decode_loop_reuses_one_plan_and_allocates_nothing() {
    let (heads, kv_heads, capacity, d) = (4, 2, 40, 16);
    for (name, runtime) in engines() {
        let runtime = own_device(name, runtime);
        let mut k = runtime.upload(&HostTensor::zeros(&[1, kv_heads, capacity, d])).expect(name);
        let mut v = runtime.upload(&HostTensor::zeros(&[1, kv_heads, capacity, d])).expect(name);
        let mut q = runtime.upload(&HostTensor::zeros(&[1, heads, 1, d])).expect(name);
        let mut lengths = runtime.upload(&HostTensor::new(&[1], vec![0]).unwrap()).expect(name);
        let variant = SplitKvDecode::default();
        let mut prepared = None;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut held = 0;
        for step in 0..8 {
            let (new_k, new_v) = (random(&[1, kv_heads, 1, d], 10 + step), random(&[1, kv_heads, 1, d], 50 + step));
            let new_q = random(&[1, heads, 1, d], 90 + step);
            runtime.write(&mut k, 2, step as usize, &new_k).expect(name);
            runtime.write(&mut v, 2, step as usize, &new_v).expect(name);
            runtime.write(&mut q, 0, 0, &new_q).expect(name);
            runtime.write(&mut lengths, 0, 0, &HostTensor::new(&[1], vec![step as i32 + 1]).unwrap()).expect(name);
            keys.push(new_k.to_f32());
            values.push(new_v.to_f32());
            let call = Inputs::new().with("q", &q).with("k", &k).with("v", &v).with("lengths", &lengths);
            if prepared.is_none() {
                prepared = Some(runtime.prepare_blocking(runtime.plan(&variant, &call).expect(name)).expect(name));
            }
            let outputs = runtime.run(prepared.as_ref().unwrap(), &call).expect(name);
            let got = runtime.read_blocking(outputs.get("out").unwrap()).expect(name);
            drop((outputs, call));
            // The same over exactly the keys so far.
            let whole = |rows: &[Vec<f32>]| {
                let n = rows.len();
                HostTensor::from_fn(&[1, kv_heads, n, d], |at| rows[at / d % n][at / (d * n) * d + at % d])
            };
            let want = Runtime::cpu()
                .call_blocking(&DenseAttention::default(), &inputs(&new_q, &whole(&keys), &whole(&values)))
                .expect(name);
            common::assert_close(&format!("{name} step {step}"), want.get("out").unwrap(), &got, common::Budget::F32);
            if step == 1 {
                held = runtime.memory().held;
            } else if step > 1 {
                assert_eq!(runtime.memory().held, held, "{name}: step {step} allocated");
            }
        }
    }
}

#[test]
fn dropped_tensors_are_reused_and_trim_frees_them() {
    for (name, runtime) in gpus() {
        let runtime = own_device(name, runtime);
        let before = runtime.memory().held;
        drop(runtime.upload(&HostTensor::zeros(&[1000])).expect(name));
        let first = runtime.memory();
        assert!(first.held > before && first.free >= 4000, "{name}: {first:?}");
        drop(runtime.upload(&HostTensor::zeros(&[1000])).expect(name));
        assert_eq!(runtime.memory(), first, "{name}");
        runtime.trim();
        assert_eq!((runtime.memory().held, runtime.memory().free), (before, 0), "{name}");
    }
}

#[test]
fn the_pipeline_cache_on_disk_is_written_read_and_distrusted() {
    let folder = std::env::temp_dir().join(format!("wgpu-attention-cache-{}", std::process::id()));
    for (name, _) in gpus().iter().filter(|(name, _)| *name != "gpu") {
        let options = GpuOptions { adapter: Some((*name).into()), cache: Some(folder.clone()), ..Default::default() };
        let open = || Runtime::gpu_blocking(&options).expect(name);
        let runtime = open();
        let Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        if !engine.device().0.features().contains(wgpu::Features::PIPELINE_CACHE) {
            println!("not covered: {name} has no pipeline cache");
            continue;
        }
        let t = random(&[1, 1, 4, 4], 1);
        runtime.call_blocking(&DenseAttention::default(), &inputs(&t, &t, &t)).expect(name);
        runtime.save_pipelines().expect(name);
        assert_eq!(open().notice(), None, "{name}");
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            *bytes.last_mut().unwrap() ^= 0xff;
            std::fs::write(entry.path(), bytes).unwrap();
        }
        let damaged = open();
        assert!(damaged.notice().is_some_and(|n| n.contains("ignored")), "{name}: {:?}", damaged.notice());
        damaged.call_blocking(&DenseAttention::default(), &inputs(&t, &t, &t)).expect(name);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_tensor_over_the_binding_limit_is_a_typed_error() {
    for (name, runtime) in gpus() {
        let limit = runtime.caps().max_binding;
        let rows = limit as usize / 256 + 1;
        if rows * 256 > 1 << 28 {
            println!("not covered: {name}: its binding limit of {limit} bytes is too much memory for a test");
            continue;
        }
        let k = runtime.upload(&HostTensor::zeros(&[1, 1, rows, 64])).expect(name);
        let q = HostTensor::zeros(&[1, 1, 1, 64]);
        let call = Inputs::new().with("q", &q).with("k", &k).with("v", &k);
        let prepared =
            runtime.prepare_blocking(runtime.plan(&DenseAttention::default(), &call).expect(name)).expect(name);
        let error = runtime.run(&prepared, &call).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit, "{name}: {error}");
        assert!(error.to_string().contains("max_storage_buffer_binding_size"), "{name}: {error}");
    }
}

#[test]
fn more_than_65535_workgroups_work() {
    // Eight rows a workgroup of the map, which is the least work a workgroup can have: 70000 of them need a folded grid.
    let x = random(&[1, 1, 560_000, 4], 5);
    let want: Vec<f32> = x.to_f32().iter().map(|x| x.max(0.0)).collect();
    let want = HostTensor::new(&[1, 1, 560_000, 4], want).expect("as many as the shape says");
    let variant = FeatureMaps { map: FeatureMap::Relu, ..Default::default() };
    for (name, runtime) in engines() {
        let inputs = Inputs::new().with("x", &x);
        if let Engine::Gpu(_) = runtime.engine() {
            let plan = runtime.plan(&variant, &inputs).expect(name);
            let io = plan.io(0, &plan.slots.iter().map(|s| s.layout.clone()).collect::<Vec<_>>());
            let launch = plan.stages[0].op.kernel().launch(&io, &runtime.caps()).expect(name);
            assert!(launch.groups > 65535, "{name}: {} workgroups", launch.groups);
        }
        let got = runtime.call_blocking(&variant, &inputs).expect(name);
        common::assert_close(name, &want, got.get("out").unwrap(), common::Budget::F32);
    }
}

#[test]
fn work_is_cut_into_bounded_submits_with_the_same_result() {
    let [q, k, v] = [1, 2, 3].map(|seed| random(&[1, 3, 70, 16], seed));
    for (name, runtime) in gpus().into_iter().filter(|(name, _)| *name != "gpu") {
        let options = GpuOptions { adapter: Some(name.into()), submit_flops: Some(1e4), ..Default::default() };
        let cut = Runtime::gpu_blocking(&options).expect(name);
        let got = cut.call_blocking(&DenseAttention::default(), &inputs(&q, &k, &v)).expect(name);
        let want = runtime.call_blocking(&DenseAttention::default(), &inputs(&q, &k, &v)).expect(name);
        assert!(got.get("out").unwrap().to_f32() == want.get("out").unwrap().to_f32(), "{name}");
    }
}

#[test]
fn checked_shaders_give_the_same() {
    let [q, k, v] = [1, 2, 3].map(|seed| random(&[1, 2, 33, 12], seed));
    for (name, runtime) in gpus().into_iter().filter(|(name, _)| *name != "gpu") {
        let options = GpuOptions { adapter: Some(name.into()), checked: true, ..Default::default() };
        let checked = Runtime::gpu_blocking(&options).expect(name);
        let got = checked.call_blocking(&DenseAttention::default(), &inputs(&q, &k, &v)).expect(name);
        let want = runtime.call_blocking(&DenseAttention::default(), &inputs(&q, &k, &v)).expect(name);
        assert!(got.get("out").unwrap().to_f32() == want.get("out").unwrap().to_f32(), "{name}");
    }
}

#[test]
fn threads_share_a_runtime() {
    let problem = |seed: u64| [1, 2, 3].map(|n| random(&[1, 2, 20 + seed as usize % 3, 16], 10 * seed + n));
    for (name, runtime) in engines() {
        let wrong: Vec<u64> = std::thread::scope(|scope| {
            let call = |seed: u64| {
                let runtime = &runtime;
                scope.spawn(move || {
                    let [q, k, v] = problem(seed);
                    let want =
                        Runtime::cpu().call_blocking(&DenseAttention::default(), &inputs(&q, &k, &v)).expect(name);
                    let right = (0..10).all(|_| {
                        let got = runtime.call_blocking(&DenseAttention::default(), &inputs(&q, &k, &v)).expect(name);
                        common::close(want.get("out").unwrap(), got.get("out").unwrap(), common::Budget::F32).is_ok()
                    });
                    (seed, right)
                })
            };
            let threads: Vec<_> = (0..6).map(call).collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .filter(|(_, right)| !right)
                .map(|(seed, _)| seed)
                .collect()
        });
        assert!(wrong.is_empty(), "{name}: threads {wrong:?} read another's numbers");
    }
}

#[test]
fn kernel_texts_are_written_and_edited_ones_taken() {
    let folder = std::env::temp_dir().join(format!("wgpu-attention-kernels-{}", std::process::id()));
    let t = random(&[1, 1, 4, 4], 1);
    for (name, _) in gpus().iter().filter(|(name, _)| *name != "gpu") {
        let options = GpuOptions { adapter: Some((*name).into()), kernels: Some(folder.clone()), ..Default::default() };
        let call = || {
            let runtime = Runtime::gpu_blocking(&options).expect(name);
            let outputs = runtime.call_blocking(&DenseAttention::default(), &inputs(&t, &t, &t))?;
            Ok::<_, Error>(outputs.get("out").unwrap().to_f32())
        };
        let out = call().expect(name);
        let written: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!written.is_empty() && out.iter().all(|x| *x != 0.0), "{name}");
        for file in &written {
            // A kernel that does nothing leaves what it should have written as it was.
            let text = std::fs::read_to_string(file).unwrap();
            let (before, after) = text.split_once("        kernel(group, lane);\n").expect(name);
            std::fs::write(file.with_extension("edited.wgsl"), format!("{before}{after}")).unwrap();
        }
        assert_eq!(call().expect(name), vec![0.0; out.len()], "{name}");
        for file in &written {
            std::fs::write(file.with_extension("edited.wgsl"), "fn main() { nothing }").unwrap();
        }
        let error = call().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shader, "{name}: {error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
