//! The cooperative-matrix tests on a lavapipe that has such matrices (Mesa 26 or newer), in a folder of Debian trixie with backports.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::{root, suite, target};

/// The tests that run kernels of cooperative matrices. Those that the package does not have are left out.
const TESTS: [&str; 7] =
    ["matrix", "ranges", "scan_chunks", "scan_chunks_channel", "scan_delta", "scan_matrix", "tuning"];
const MIRROR: &str = "http://deb.debian.org/debian";
const DRIVER: &str = "usr/share/vulkan/icd.d";

/// Makes the folder where there is none, builds the tests here and runs them there. The folder is `target/coop`, or what
/// `WGPU_ATTENTION_TRIXIE` names.
pub fn test() -> Result<()> {
    let folder = env::var_os("WGPU_ATTENTION_TRIXIE").map_or_else(|| target().join("coop"), PathBuf::from);
    if driver(&folder).is_err() {
        if let Err(why) = possible() {
            println!("coop-test: skipped, a Debian folder cannot be made here: {why:#}");
            return Ok(());
        }
        make(&folder)?;
    }
    let driver = driver(&folder)?;
    let known = TESTS.into_iter().filter(|test| root().join("tests").join(format!("{test}.rs")).exists());
    let arguments: Vec<&str> = known.flat_map(|test| ["--test", test]).collect();
    suite::run(&suite::binaries(&arguments)?, |test| run(&folder, &driver, test))
}

/// Whether debootstrap can work: it needs root and itself.
fn possible() -> Result<()> {
    let user = Command::new("id").arg("-u").output().context("id")?;
    if user.stdout != b"0\n" {
        bail!("debootstrap and chroot need root");
    }
    if Command::new("debootstrap").arg("--version").output().is_ok() {
        return Ok(());
    }
    shell(
        "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends debootstrap",
    )
    .context("debootstrap is not installed and Debian's package cannot be had")
}

fn make(folder: &Path) -> Result<()> {
    // A folder that was not finished would look like one that has everything but the driver.
    let half = folder.with_extension("half");
    if half.exists() {
        fs::remove_dir_all(&half).with_context(|| half.display().to_string())?;
    }
    fs::create_dir_all(&half).with_context(|| half.display().to_string())?;
    let at = half.display();
    shell(&format!("debootstrap --variant=minbase trixie '{at}' {MIRROR}"))?;
    // Of the package's drivers one is wanted, and no page of a manual: a machine may have little disk left.
    fs::write(
        half.join("etc/dpkg/dpkg.cfg.d/lean"),
        "path-exclude=/usr/lib/*/libvulkan_*\npath-include=/usr/lib/*/libvulkan_lvp.so\npath-exclude=/usr/share/doc/*\n\
         path-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n",
    )?;
    fs::write(
        half.join("etc/apt/sources.list"),
        format!("deb {MIRROR} trixie main\ndeb {MIRROR} trixie-backports main\n"),
    )?;
    shell(&format!(
        "chroot '{at}' apt-get update -q && chroot '{at}' env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
         --no-install-recommends -t trixie-backports mesa-vulkan-drivers libvulkan1 && chroot '{at}' apt-get clean"
    ))?;
    driver(&half)?;
    fs::rename(&half, folder).with_context(|| folder.display().to_string())
}

/// The manifest of the folder's lavapipe, as a path inside it.
fn driver(folder: &Path) -> Result<String> {
    let list = fs::read_dir(folder.join(DRIVER)).with_context(|| folder.join(DRIVER).display().to_string())?;
    let mut names = list.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    let name = names.find(|name| name.starts_with("lvp_icd")).context("the folder has no lavapipe")?;
    Ok(format!("/{DRIVER}/{name}"))
}

/// Runs a test in the folder. Its mounts are in a namespace of their own and end with it.
fn run(folder: &Path, driver: &str, test: &Path) -> Result<Output> {
    let (at, repository) = (folder.display(), root().display());
    let target = test.ancestors().nth(3).unwrap_or(root()).display();
    let binds = ["/proc".to_owned(), "/dev".to_owned(), "/sys".to_owned(), repository.to_string(), target.to_string()];
    let mounts: Vec<String> =
        binds.iter().map(|path| format!("mkdir -p '{at}{path}' && mount --rbind '{path}' '{at}{path}'")).collect();
    let line = format!(
        "unshare --mount --propagation private sh -ec \"{}; cd '{at}' && exec chroot '{at}' env VK_DRIVER_FILES={driver} \
         XDG_RUNTIME_DIR=/tmp WGPU_ATTENTION_REQUIRE=matrix sh -ec 'cd {repository} && exec {}'\"",
        mounts.join("; "),
        test.display()
    );
    Command::new("sh").args(["-c", &line]).output().context("sh")
}

fn shell(line: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", line]).status().context("sh")?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}
