//! The command line, read by hand.

use crate::mechanisms::{ALL, Mechanism};
use std::path::PathBuf;
use wgpu_attention::Runtime;
use wgpu_attention::gpu::GpuOptions;

const USAGE: &str = "long_context: find a passkey in a long text with attention of every family

  --text FILE          haystack (default: the text of this repository)
  --lengths A,B,...    bytes of context (default: 4096,16384,65536,262144)
  --depths N           places of the needle, from 0 % to 100 % (default: 6)
  --variants A,B,...   a part of the variants, by name (default: all that the example knows)
  --engine auto|cpu|gpu
  --adapter S          part of the name of the GPU adapter, e.g. lavapipe
  --out DIR            where the SVG files go (default: target/long_context)
  --max-seconds N      time for everything (default: 120); what does not fit is cut, and said so";

/// What the user asked for.
pub struct Options {
    pub text: Option<PathBuf>,
    pub lengths: Vec<usize>,
    pub depths: Vec<f64>,
    pub variants: Vec<String>,
    pub engine: String,
    pub adapter: Option<String>,
    pub out: PathBuf,
    pub max_seconds: f64,
}

impl Options {
    /// From the words of the command line; `None` when all they ask for is help, which is printed. The error is a message for the user.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Options {
            text: None,
            lengths: vec![4 << 10, 16 << 10, 64 << 10, 256 << 10],
            depths: spread(6),
            variants: Vec::new(),
            engine: "auto".into(),
            adapter: None,
            out: concat!(env!("CARGO_MANIFEST_DIR"), "/target/long_context").into(),
            max_seconds: 120.0,
        };
        while let Some(word) = words.next() {
            if word == "--help" || word == "-h" {
                println!("{USAGE}");
                return Ok(None);
            }
            let Some(value) = words.next() else { return Err(format!("{word} needs a value\n\n{USAGE}")) };
            let bad = || format!("{word} {value}: not understood\n\n{USAGE}");
            match word.as_str() {
                "--text" => options.text = Some(value.into()),
                "--lengths" => {
                    let lengths: Result<Vec<usize>, _> = value.split(',').map(|w| w.trim().parse()).collect();
                    options.lengths = lengths.map_err(|_| bad())?;
                    options.lengths.sort_unstable();
                    options.lengths.dedup();
                    if options.lengths.first().is_none_or(|&n| n < 128) {
                        return Err("--lengths: a context has 128 bytes or more".into());
                    }
                }
                "--depths" => options.depths = spread(value.parse().ok().filter(|&n| n > 0).ok_or_else(bad)?),
                "--variants" => options.variants = value.split(',').map(|w| w.trim().to_owned()).collect(),
                "--engine" if ["auto", "cpu", "gpu"].contains(&value.as_str()) => options.engine = value,
                "--adapter" => options.adapter = Some(value),
                "--out" => options.out = value.into(),
                "--max-seconds" => options.max_seconds = value.parse().ok().filter(|&s| s > 0.0).ok_or_else(bad)?,
                _ => return Err(bad()),
            }
        }
        Ok(Some(options))
    }

    /// The variants asked for.
    pub fn chosen(&self) -> Result<Vec<&'static Mechanism>, String> {
        let known: Vec<&str> = ALL.iter().map(|m| m.name).collect();
        if let Some(name) = self.variants.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(format!("--variants: `{name}` is not one of {}", known.join(", ")));
        }
        Ok(ALL.iter().filter(|m| self.variants.is_empty() || self.variants.iter().any(|name| name == m.name)).collect())
    }

    /// The engine asked for.
    pub fn runtime(&self) -> Result<Runtime, String> {
        let gpu = GpuOptions { adapter: self.adapter.clone(), ..Default::default() };
        match (self.engine.as_str(), &self.adapter) {
            ("cpu", None) => Ok(Runtime::cpu()),
            ("cpu", Some(_)) => Err("--adapter names a GPU, --engine cpu has none".into()),
            ("auto", None) => Ok(Runtime::new_blocking()),
            _ => Runtime::gpu_blocking(&gpu).map_err(|e| e.to_string()),
        }
    }
}

/// `n` places from 0 to 1.
fn spread(n: usize) -> Vec<f64> {
    (0..n).map(|i| i as f64 / (n - 1).max(1) as f64).collect()
}
