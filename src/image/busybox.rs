//! The tree of the image `busybox`, made from the host's busybox. `rootfs/README.md` says what is in it.
//!
//! Called by the store when the image is first asked for. This is the only place where minirun runs a program of the
//! host by itself: a busybox alone knows its applets.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Tally, tree};
use crate::error::{Advice, printable};

/// The name of the image.
pub(super) const NAME: &str = "busybox";

/// Parents first.
const DIRECTORIES: [&str; 25] = [
    "bin",
    "dev",
    "etc",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/local",
    "usr/local/bin",
    "usr/sbin",
    "var",
    "var/cache",
    "var/lib",
    "var/log",
    "var/run",
    "var/spool",
    "var/tmp",
];

const FILES: [(&str, &str); 7] = [
    ("etc/group", include_str!("../../rootfs/etc/group")),
    ("etc/hostname", ""),
    ("etc/hosts", ""),
    ("etc/nsswitch.conf", include_str!("../../rootfs/etc/nsswitch.conf")),
    ("etc/passwd", include_str!("../../rootfs/etc/passwd")),
    ("etc/profile", include_str!("../../rootfs/etc/profile")),
    ("etc/resolv.conf", ""),
];

/// Fills the empty directory `rootfs`.
pub(super) fn fill(rootfs: BorrowedFd) -> Result<Tally> {
    let busybox = static_busybox()?;
    let applets = applets(&busybox)?;
    for path in DIRECTORIES {
        let mode = match path {
            "tmp" | "var/tmp" => 0o1777,
            "root" => 0o700,
            _ => 0o755,
        };
        make_directory(rootfs, path, mode)?;
    }
    let mut tally = Tally { size: 0, files: (DIRECTORIES.len() + FILES.len() + 1) as u64 };
    for (path, content) in FILES {
        tree::write_file(rootfs, path, content.as_bytes(), Mode::from_raw_mode(0o644))?;
        tally.size += content.len() as u64;
    }
    tally.size += copy(&busybox, rootfs)?;
    for applet in &applets {
        match rustix::fs::symlinkat("/bin/busybox", rootfs, applet) {
            Ok(()) => tally.files += 1,
            // Itself, or an applet that is listed twice.
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e).with_context(|| format!("make link `{applet}`")),
        }
    }
    Ok(tally)
}

fn make_directory(rootfs: BorrowedFd, path: &str, mode: u32) -> Result<()> {
    let make = || {
        rustix::fs::mkdirat(rootfs, path, Mode::RWXU)?;
        // Not left to the umask.
        rustix::fs::chmodat(rootfs, path, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())
    };
    make().with_context(|| format!("make directory `{path}`"))
}

/// Copies the program, and tells its size.
fn copy(busybox: &Path, rootfs: BorrowedFd) -> Result<u64> {
    let copy = || -> io::Result<u64> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut to = File::from(rustix::fs::openat(rootfs, "bin/busybox", flags, Mode::RUSR | Mode::WUSR)?);
        let size = io::copy(&mut File::open(busybox)?, &mut to)?;
        rustix::fs::fchmod(to.as_fd(), Mode::from_raw_mode(0o755))?;
        Ok(size)
    };
    copy().with_context(|| format!("copy `{}`", busybox.display()))
}

/// The first busybox of the host that runs without libraries.
fn static_busybox() -> Result<PathBuf> {
    let known = ["/bin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let searched = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    let mut reason = anyhow!("this host has no busybox");
    for dir in known.into_iter().chain(searched) {
        let program = dir.join("busybox");
        if !program.is_file() {
            continue;
        }
        match check_static(&program) {
            Ok(()) => return Ok(program),
            Err(e) => reason = e.context(format!("use `{}`", printable(&program.to_string_lossy()))),
        }
    }
    Err(reason).remedy(
        "`apt-get install busybox-static` (Debian, Ubuntu), or import a root file system: `minirun image import`",
    )
}

/// Checks that the program is for this machine and needs no dynamic linker, which would be missing in the image.
fn check_static(program: &Path) -> Result<()> {
    let file = File::open(program)?;
    let ours = elf_header(&File::open("/proc/self/exe")?).context("read `/proc/self/exe`")?;
    let header = elf_header(&file).context("it is not an ELF program")?;
    // Class and byte order, then the machine: what minirun itself was built for runs here.
    if header[4..6] != ours[4..6] || header[18..20] != ours[18..20] {
        bail!("it is for another machine");
    }
    if program_header_types(&file, &header).context("its ELF headers are damaged")?.contains(&libc::PT_INTERP) {
        bail!("it is not static");
    }
    Ok(())
}

fn elf_header(file: &File) -> io::Result<[u8; 64]> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    match header.starts_with(b"\x7fELF") {
        true => Ok(header),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The `p_type` of each program header (elf(5)).
fn program_header_types(file: &File, header: &[u8; 64]) -> Result<Vec<u32>> {
    let half = |at: usize| u64::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    // EI_CLASS 2 is ELFCLASS64: offsets have 8 bytes.
    let (offset, size, count) = match header[4] {
        2 => (u64::from_ne_bytes(header[32..40].try_into()?), half(54), half(56)),
        _ => (u64::from(u32::from_ne_bytes(header[28..32].try_into()?)), half(42), half(44)),
    };
    let mut types = Vec::new();
    for index in 0..count {
        let mut word = [0; 4];
        file.read_exact_at(&mut word, offset.checked_add(index * size).context("the offset is too large")?)?;
        types.push(u32::from_ne_bytes(word));
    }
    Ok(types)
}

/// The paths of the applets, such as `bin/sh` and `usr/bin/nc`.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "an image is made once per host, and busybox alone knows its applets"
    )]
    let mut command = Command::new(busybox);
    let output = command
        .arg("--list-full")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("run `{} --list-full`", busybox.display()))?;
    let list = String::from_utf8(output.stdout).unwrap_or_default();
    let applets: Vec<String> = list.lines().filter(|path| is_applet(path)).map(str::to_owned).collect();
    if !output.status.success() || !applets.iter().any(|path| path == "bin/sh") {
        bail!("run `{} --list-full`: it does not list `bin/sh`", busybox.display());
    }
    Ok(applets)
}

/// Whether a line of the list is a path in one of the directories for programs.
fn is_applet(path: &str) -> bool {
    let name = ["bin/", "sbin/", "usr/bin/", "usr/sbin/"].iter().find_map(|dir| path.strip_prefix(dir));
    name.is_some_and(|name| {
        !name.is_empty()
            && name.len() < 64
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+[".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_are_programs_in_directories_for_programs() {
        for path in ["bin/sh", "sbin/init", "usr/bin/[[", "usr/sbin/udhcpc6", "usr/bin/run-parts", "bin/arch"] {
            assert!(is_applet(path), "{path}");
        }
        for path in ["", "linuxrc", "bin/", "/bin/sh", "bin/../x", "bin/..", "bin/a/b", "etc/passwd", "bin/a\u{1b}"] {
            assert!(!is_applet(path), "{path}");
        }
    }

    #[test]
    fn a_dynamic_program_a_foreign_one_and_a_script_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &[u8]| {
            let fd = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
            tree::write_file(fd.as_fd(), name, content, Mode::RUSR).unwrap();
            format!("{:#}", check_static(&dir.path().join(name)).unwrap_err())
        };
        assert!(
            put("script", &[b"#!/bin/sh\n".as_slice(), &[b' '; 100]].concat()).starts_with("it is not an ELF program")
        );
        assert!(put("short", b"\x7fELF").starts_with("it is not an ELF program"));
        let mut own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(put("dynamic", &own), "it is not static");
        own.truncate(64);
        assert!(put("cut", &own).starts_with("its ELF headers are damaged"));
        own[18] ^= 0xff;
        assert_eq!(put("foreign", &own), "it is for another machine");
    }
}
