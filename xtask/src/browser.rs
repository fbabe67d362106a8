//! Headless Chromium as a child process.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio, id};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Names under which Chromium and Chrome are installed; the ones with a slash are not looked up in PATH.
const NAMES: [&str; 6] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
];

const FLAGS: [&str; 10] = [
    "--headless=new",
    // Chromium refuses to run its sandbox as root, as containers do. It sees no page but ours.
    "--no-sandbox",
    // The same adapter on every machine, also on those with a GPU.
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    // Messages of the console, the browser's complaints about shaders among them, go to the log.
    "--enable-logging=stderr",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
];

/// Path of Chromium's binary: the variable CHROMIUM, else the usual names.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("CHROMIUM") {
        return Ok(path.into());
    }
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
        .context("Chromium is not installed (Debian: apt-get install chromium; elsewhere set CHROMIUM to the binary)")
}

/// A running Chromium, ended on drop.
pub struct Chromium {
    child: Child,
    /// Everything that it writes but the log.
    scratch: PathBuf,
    log: PathBuf,
}

impl Chromium {
    /// Opens `url` with an empty profile.
    pub fn open(url: &str) -> Result<Self> {
        let binary = find()?;
        let scratch = env::temp_dir().join(format!("wgpu-attention-chromium-{}", id()));
        fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let log = crate::target().join("chromium.log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(&binary)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
            .envs(["TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"].map(|name| (name, &scratch)))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        Ok(Self { child, scratch, log })
    }

    /// An error once the browser has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("Chromium ended early: {status}"),
            None => Ok(()),
        }
    }

    /// The end of what Chromium has written, for a report of a failure.
    pub fn log_tail(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        // A machine without a desktop has no D-Bus, which Chromium reports dozens of times.
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("dbus/")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The processes that it has started end when they lose it, and may write until then.
        for _ in 0..50 {
            match fs::remove_dir_all(&self.scratch) {
                Err(error) if error.kind() != ErrorKind::NotFound => thread::sleep(Duration::from_millis(100)),
                _ => break,
            }
        }
    }
}
