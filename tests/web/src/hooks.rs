//! Users' hooks in the browser: naga, as wasm, checks the text; the browser compiles the kernel that it joins.

use wgpu_attention::variants::dense::DenseAttention;
use wgpu_attention::{Along, Engine, ErrorKind, Hooked, HostTensor, Inputs, Result, Runtime, UserHook};

use crate::cases::webgpu;

/// Names that [`run`] knows.
pub const TESTS: [&str; 3] = ["hooks::score", "hooks::mask", "hooks::mistake"];

const LENGTH: usize = 150;

/// Runs one of [`TESTS`].
pub async fn run(name: &str) -> std::result::Result<String, String> {
    match name {
        "hooks::score" => agree(score().map_err(|e| e.to_string())?).await,
        "hooks::mask" => agree(mask().map_err(|e| e.to_string())?).await,
        "hooks::mistake" => mistake(),
        _ => Err(format!("no test has the name {name}")),
    }
}

/// A bias that falls with the distance, by head.
fn score() -> Result<UserHook> {
    let slopes = HostTensor::new(&[2], vec![0.5_f32, 0.125])?;
    let text = "fn score(s: f32, at: At, slope: f32) -> f32 { return tanh(s) - slope * abs(f32(at.query - at.key)); }";
    UserHook::score(text)?.with("slope", (&slopes, Along::Heads))
}

/// Three documents.
fn mask() -> Result<UserHook> {
    let of = HostTensor::new(&[LENGTH], (0..LENGTH).map(|n| (n / 60) as i32).collect::<Vec<_>>())?;
    let text = "fn mask(at: At, own: i32, other: i32) -> bool { return own == other && at.key <= at.query; }";
    UserHook::mask(text)?.with("own", (&of, Along::Queries))?.with("other", (&of, Along::Keys))
}

async fn agree(hook: UserHook) -> std::result::Result<String, String> {
    let tensor = |seed: usize| {
        HostTensor::from_fn(&[1, 2, LENGTH, 16], |n| ((n * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
    };
    let inputs = Inputs::new().with("q", tensor(1)).with("k", tensor(2)).with("v", tensor(3));
    let gpu = webgpu().await?;
    let Engine::Gpu(_) = gpu.engine() else { return Err(format!("not on a GPU: {gpu}")) };
    let plain = DenseAttention::default();
    let hooked = Hooked::new(plain.clone()).hook(hook);
    let without = Runtime::cpu().call(&plain, &inputs).await.map_err(|e| e.to_string())?;
    let want = Runtime::cpu().call(&hooked, &inputs).await.map_err(|e| e.to_string())?;
    let got = gpu.call(&hooked, &inputs).await.map_err(|e| e.to_string())?;
    let [without, want, got] =
        [without, want, got].map(|outputs| outputs.get("out").map(HostTensor::to_f64).map_err(|e| e.to_string()));
    let (without, want, got) = (without?, want?, got?);
    let apart = |x: &[f64], y: &[f64]| x.iter().zip(y).fold(0.0_f64, |most, (x, y)| most.max((x - y).abs()));
    if apart(&without, &want) < 1e-3 {
        return Err("the hook changes nothing".into());
    }
    // NaN is no agreement, and `max` above drops it.
    if apart(&want, &got) > 1e-4 || !got.iter().all(|x| x.is_finite()) {
        return Err(format!("WebGPU and the CPU engine differ by {:.1e}", apart(&want, &got)));
    }
    Ok(format!("differ by {:.0e}", apart(&want, &got)))
}

fn mistake() -> std::result::Result<String, String> {
    match UserHook::score("fn score(s: f32, at: At) -> f32 {\n    return s + missing;\n}") {
        Ok(_) => Err("a hook with an unknown name was taken".into()),
        Err(e) if e.kind() == ErrorKind::Hook && e.to_string().contains("line 2, column 16") => Ok(String::new()),
        Err(e) => Err(format!("{:?}: {e}", e.kind())),
    }
}
