//! Compiles `rootfs/ping.c`, which the image maker (`src/image/busybox.rs`) embeds, and the default filter of system calls.
//!
//! Static, because the image has no libraries, and as small as the linker makes it, because it grows minirun.

use std::path::Path;
use std::process::Command;

#[path = "build/filter.rs"]
mod filter;
/// The compiler of filters is minirun's own.
#[allow(dead_code, reason = "minirun uses the rest of it")]
#[path = "."]
mod seccomp {
    #[path = "src/sandbox/seccomp/bpf.rs"]
    pub mod bpf;
    #[path = "src/sandbox/seccomp/openings.rs"]
    pub mod openings;
    #[path = "src/sandbox/seccomp/policy.rs"]
    pub mod policy;
    #[path = "src/sandbox/seccomp/profile.rs"]
    pub mod profile;
}

const SOURCE: &str = "rootfs/ping.c";

const FLAGS: [&str; 13] = [
    "-std=c11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-static",
    "-fno-pie",
    "-no-pie",
    "-s",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--gc-sections,--build-id=none",
    "-Wl,-z,noseparate-code",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CC");
    filter::SOURCES.iter().for_each(|source| println!("cargo::rerun-if-changed={source}"));
    if let Err(reason) =
        compile().and_then(|()| filter::make(Path::new(&std::env::var_os("OUT_DIR").unwrap_or_default())))
    {
        // An error of cargo is one line.
        for line in reason.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn compile() -> Result<(), String> {
    let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: cargo runs this")?;
    let cc = std::env::var("CC").ok().filter(|cc| !cc.trim().is_empty()).unwrap_or_else(|| "cc".to_owned());
    // Make's meaning of CC: a program, and perhaps arguments.
    let mut words = cc.split_whitespace();
    #[expect(clippy::disallowed_methods, reason = "a build script is no launch, and C is compiled by a compiler")]
    let mut command = Command::new(words.next().unwrap_or("cc"));
    let output = command
        .args(words)
        .args(FLAGS)
        .arg("-o")
        .arg(Path::new(&out).join("ping"))
        .arg(SOURCE)
        .output()
        .map_err(|e| format!("run the C compiler `{cc}`: {e}: {REMEDY}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("compile `{SOURCE}` with `{cc}`: {}: {REMEDY}\n{said}", output.status))
        }
    }
}

const REMEDY: &str = "a C compiler and a static C library are needed: `apt-get install gcc libc6-dev` (Debian, Ubuntu)";
