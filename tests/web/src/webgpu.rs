//! What the other tests rest on: a device, a dispatch, a readback, and errors that are seen.

use futures_channel::oneshot;

/// Names that [`run`] knows.
pub const TESTS: [&str; 2] = ["webgpu::dispatch_and_read_back", "webgpu::rejected_shader_is_reported"];

/// Runs one of [`TESTS`].
pub async fn run(name: &str) -> Result<String, String> {
    match name {
        "webgpu::dispatch_and_read_back" => dispatch_and_read_back().await,
        "webgpu::rejected_shader_is_reported" => rejected_shader_is_reported().await,
        _ => Err(format!("no test has the name {name}")),
    }
}

async fn open() -> Result<(wgpu::AdapterInfo, wgpu::Device, wgpu::Queue), String> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter =
        instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.map_err(|error| error.to_string())?;
    let (device, queue) =
        adapter.request_device(&wgpu::DeviceDescriptor::default()).await.map_err(|error| error.to_string())?;
    Ok((adapter.get_info(), device, queue))
}

const SQUARES: &str = "
@group(0) @binding(0) var<storage, read_write> squares: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&squares) {
        squares[id.x] = id.x * id.x;
    }
}
";

async fn dispatch_and_read_back() -> Result<String, String> {
    // Odd, so that the last workgroup is partly idle.
    const LEN: u32 = 1001;
    let bytes = u64::from(LEN) * 4;

    let (info, device, queue) = open().await?;
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(SQUARES.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
    };
    let squares = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let readback = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: squares.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(LEN.div_ceil(64), 1, 1);
    }
    encoder.copy_buffer_to_buffer(&squares, 0, &readback, 0, bytes);
    queue.submit([encoder.finish()]);
    if let Some(error) = scope.pop().await {
        return Err(error.to_string());
    }

    let (sender, receiver) = oneshot::channel();
    readback.map_async(wgpu::MapMode::Read, .., |outcome| {
        // The receiver waits below.
        let _ = sender.send(outcome);
    });
    receiver.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let view = readback.get_mapped_range(..).map_err(|error| error.to_string())?;
    for (index, word) in (0u32..).zip(view.chunks_exact(4)) {
        let got = u32::from_le_bytes(word.try_into().expect("chunks of four bytes"));
        if got != index * index {
            return Err(format!("element {index} is {got}; expected {}", index * index));
        }
    }
    Ok(format!(
        "{:?} device, subgroups {}..{}, {} storage buffers",
        info.device_type,
        info.subgroup_min_size,
        info.subgroup_max_size,
        device.limits().max_storage_buffers_per_shader_stage
    ))
}

/// The other tests believe that a shader which the browser refuses fails them; this one proves it, with text that naga
/// takes and the browser does not.
async fn rejected_shader_is_reported() -> Result<String, String> {
    let (_, device, _) = open().await?;
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(
            "@compute @workgroup_size(64) fn main() { let sum = subgroupAdd(1u); _ = sum; }".into(),
        ),
    });
    let messages = module.get_compilation_info().await.messages;
    let error = scope.pop().await;
    let listed = messages.iter().any(|message| message.message_type == wgpu::CompilationMessageType::Error);
    match (error, listed) {
        (Some(_), true) => Ok(String::new()),
        (error, _) => Err(format!("error scope: {error:?}; compilation messages: {messages:?}")),
    }
}
