//! The environment in which the Vulkan loader shows both software adapters.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::browser;

/// Where the Vulkan loader looks for the manifests of installed drivers.
const MANIFEST_FOLDERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// Prints `export` lines for a shell: `env="$(cargo xtask adapters-env)" && eval "$env"`.
pub fn print_environment() -> Result<()> {
    let drivers = format!("{}:{}", lavapipe()?.display(), swiftshader()?.display());
    // Loaders older than 1.3.207 know only the second name.
    println!("export VK_DRIVER_FILES='{drivers}'");
    println!("export VK_ICD_FILENAMES='{drivers}'");
    Ok(())
}

fn lavapipe() -> Result<PathBuf> {
    MANIFEST_FOLDERS
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("lvp_icd") && name.ends_with(".json")
        })
        .context("lavapipe is not installed (Debian: apt-get install mesa-vulkan-drivers libvulkan1)")
}

/// Chromium brings SwiftShader as a Vulkan driver, manifest included, in the folder of its binary.
fn swiftshader() -> Result<PathBuf> {
    let beside_binary = browser::find().ok().and_then(|path| Some(path.canonicalize().ok()?.parent()?.to_owned()));
    ["/usr/lib/chromium", "/usr/lib64/chromium-browser", "/opt/google/chrome"]
        .iter()
        .map(|folder| Path::new(folder).to_owned())
        .chain(beside_binary)
        .map(|folder| folder.join("vk_swiftshader_icd.json"))
        .find(|path| path.exists())
        .context("SwiftShader's Vulkan driver, a part of Chromium, is not installed (Debian: apt-get install chromium)")
}
