//! The tree of the image `busybox`, made from the host's busybox. `rootfs/README.md` says what is in it.
//!
//! Called by the store when the image is first asked for. This is the only place where minirun runs a program of the
//! host by itself: a busybox alone knows its applets.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::Mode;
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

/// Ours, because most busyboxes' ping needs CAP_NET_RAW, which a container has not (`rootfs/ping.c`, built by `build.rs`).
const PING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ping"));

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
    let mut tally = Tally { size: 0, files: (DIRECTORIES.len() + FILES.len() + 3) as u64 };
    for (path, content) in FILES {
        tree::write_file(rootfs, path, content.as_bytes(), Mode::from_raw_mode(0o644))?;
        tally.size += content.len() as u64;
    }
    tally.size += copy(&busybox, rootfs)?;
    tree::write_file(rootfs, "bin/ping", PING, Mode::from_raw_mode(0o755))?;
    tally.size += PING.len() as u64;
    rustix::fs::symlinkat("/bin/ping", rootfs, "bin/ping6").context("make link `bin/ping6`")?;
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

/// Copies the program without its ping, and tells its size.
fn copy(busybox: &Path, rootfs: BorrowedFd) -> Result<u64> {
    let mut program = std::fs::read(busybox).with_context(|| format!("read `{}`", busybox.display()))?;
    hide_ping(&mut program);
    tree::write_file(rootfs, "bin/busybox", &program, Mode::from_raw_mode(0o755))?;
    Ok(program.len() as u64)
}

/// Renames the applets `ping` and `ping6` of a busybox to `pinG` and `pinG6`.
///
/// Where busybox is built to prefer its applets (Debian's is), its shell, env, xargs and others run an applet of the
/// name before any program of `PATH`, and `bin/ping` would not be found. The table is one list of names, each ended by a
/// null byte, and sorted, which it stays. A busybox with another table is left as it is.
fn hide_ping(program: &mut [u8]) {
    const NAMES: &[u8] = b"\0ping\0ping6\0";
    let mut found = program.windows(NAMES.len()).enumerate().filter(|(_, names)| *names == NAMES).map(|(at, _)| at);
    if let (Some(at), None) = (found.next(), found.next()) {
        program[at + 4] = b'G';
        program[at + 9] = b'G';
    }
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

/// Whether a line of the list is a path in one of the directories for programs, and is to be a link to busybox.
fn is_applet(path: &str) -> bool {
    let name = ["bin/", "sbin/", "usr/bin/", "usr/sbin/"].iter().find_map(|dir| path.strip_prefix(dir));
    name.is_some_and(|name| {
        !name.is_empty()
            && !["ping", "ping6"].contains(&name)
            && name.len() < 64
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+[".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::OFlags;

    use super::*;

    #[test]
    fn applets_are_programs_in_directories_for_programs() {
        for path in ["bin/sh", "sbin/init", "usr/bin/[[", "usr/sbin/arping", "usr/bin/run-parts", "bin/arch"] {
            assert!(is_applet(path), "{path}");
        }
        for path in ["", "linuxrc", "bin/", "/bin/sh", "bin/../x", "bin/..", "bin/a/b", "etc/passwd", "bin/a\u{1b}"] {
            assert!(!is_applet(path), "{path}");
        }
        assert!(!is_applet("bin/ping") && !is_applet("usr/bin/ping6"), "there is another ping");
    }

    #[test]
    fn ping_is_hidden_where_the_table_is_the_known_one() {
        let hidden = |program: &[u8]| {
            let mut program = program.to_vec();
            hide_ping(&mut program);
            program
        };
        assert_eq!(hidden(b"arping\0pidof\0ping\0ping6\0pivot\0"), b"arping\0pidof\0pinG\0pinG6\0pivot\0");
        for other in [b"\0ping\0ping6\0\0ping\0ping6\0".as_slice(), b"\0arping\0ping6\0", b"\0ping\0", b""] {
            assert_eq!(hidden(other), other);
        }
    }

    #[test]
    fn ping_needs_no_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        tree::write_file(fd.as_fd(), "ping", PING, Mode::RUSR).unwrap();
        check_static(&dir.path().join("ping")).unwrap();
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
