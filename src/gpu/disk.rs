//! The pipeline cache on disk. Its content goes to the driver unseen, so a file is taken only with its own checksum, made by this
//! crate's version for this adapter and driver; any other file is ignored with a notice.

use super::context::Gpu;
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct DiskCache {
    pub(super) cache: wgpu::PipelineCache,
    pub(super) notice: Option<String>,
    file: PathBuf,
    header: String,
}

impl DiskCache {
    /// `None` where the device has no pipeline cache.
    pub(super) fn open(gpu: &Gpu, folder: &Path) -> Option<Self> {
        if !gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(&gpu.info)?;
        let file = folder.join(format!("wgpu-attention-{}-{name}", env!("CARGO_PKG_VERSION")));
        let header = format!(
            "wgpu-attention {} {} {} {}\n",
            env!("CARGO_PKG_VERSION"),
            gpu.info.name,
            gpu.info.driver,
            gpu.info.driver_info
        );
        let (data, notice) = match std::fs::read(&file) {
            Ok(bytes) => match unwrap(&bytes, &header) {
                Some(data) => (Some(data.to_vec()), None),
                None => (None, Some(format!("{}: damaged or made for another driver; ignored", file.display()))),
            },
            Err(_) => (None, None),
        };
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("wgpu-attention"), data: data.as_deref(), fallback: true };
        // SAFETY: the data, if any, came from `get_data` of this crate's version on this adapter and driver: the header says so and the
        // checksum holds. That nobody forged both is what choosing the folder asserts.
        let cache = unsafe { gpu.device.create_pipeline_cache(&descriptor) };
        Some(DiskCache { cache, notice, file, header })
    }

    /// Writes the cache.
    pub(super) fn save(&self) -> Result<()> {
        let Some(data) = self.cache.get_data() else { return Ok(()) };
        let mut bytes = self.header.clone().into_bytes();
        bytes.extend_from_slice(&checksum(&data).to_le_bytes());
        bytes.extend_from_slice(&data);
        replace(&self.file, &bytes, "the pipeline cache was")
    }
}

/// Writes a file to a neighbour first, then renames it, so that no reader sees half a file.
pub(super) fn replace(file: &Path, bytes: &[u8], what: &str) -> Result<()> {
    let fail =
        |e: std::io::Error| Error::new(ErrorKind::File, format!("{}: {what} not written", file.display())).caused_by(e);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    let near = file.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&near, bytes).map_err(fail)?;
    std::fs::rename(&near, file).map_err(fail)
}

fn unwrap<'a>(bytes: &'a [u8], header: &str) -> Option<&'a [u8]> {
    let rest = bytes.strip_prefix(header.as_bytes())?;
    let (sum, data) = rest.split_at_checked(8)?;
    (sum == checksum(data).to_le_bytes()).then_some(data)
}

/// FNV-1a: finds damage, not malice.
pub(super) fn checksum(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let mut bytes = b"mine\n".to_vec();
        bytes.extend_from_slice(&checksum(b"data").to_le_bytes());
        bytes.extend_from_slice(b"data");
        assert_eq!(unwrap(&bytes, "mine\n"), Some(&b"data"[..]));
        assert_eq!(unwrap(&bytes, "other\n"), None);
        assert_eq!(unwrap(&bytes[..8], "mine\n"), None);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(unwrap(&bytes, "mine\n"), None);
    }
}
