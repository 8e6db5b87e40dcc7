//! The small languages of option values: `SRC:DST:ro`, `nofile=1024:2048`, `KEY=VALUE`. Pure functions from text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use rustix::mount::MountFlags;

use crate::error::{Advice, refused};
use crate::sandbox::credentials::Limit;
use crate::sandbox::mounts::Mount;

/// `SRC:DST[:ro|rw]`. A source is looked at: it must be there.
pub fn volume(text: &str) -> Result<Mount> {
    let failed = || format!("mount volume `{text}`");
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        bail!("{}: SRC:DST or SRC:DST:ro is wanted", failed());
    };
    let read_only = match mode {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => bail!("{}: unknown option `{other}`, ro or rw is wanted", failed()),
    };
    let target = target_path(Path::new(target)).with_context(failed)?;
    if !source.contains('/') && source != "." && source != ".." {
        let message = format!("{}: `{source}` is a name, and there are no named volumes", failed());
        return Err(refused(message, format!("give a path, as `./{source}`")));
    }
    let source = std::fs::canonicalize(source)
        .with_context(failed)
        .remedy("make it first: minirun makes nothing on the host")?;
    Ok(Mount::Bind { source, target, read_only })
}

/// `DST[:OPTIONS]`, the options as mount(8) and tmpfs(5) know them.
pub fn tmpfs(text: &str) -> Result<Mount> {
    let failed = || format!("mount tmpfs `{text}`");
    let (target, wanted) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(Path::new(target)).with_context(failed)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mut options = Vec::new();
    for option in wanted.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" | "nosuid" | "nodev" => {}
            "noexec" => flags |= MountFlags::NOEXEC,
            "exec" => flags -= MountFlags::NOEXEC,
            other => {
                let key = other.split('=').next().unwrap_or(other);
                if !["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"].contains(&key) {
                    bail!("{}: unknown option `{other}`", failed());
                }
                options.push(other);
            }
        }
    }
    Ok(Mount::Tmpfs { target, options: options.join(","), flags })
}

/// Where something may be mounted: not over the root, nor where the kernel's own file systems are.
pub fn target_path(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        bail!("`{}` is not absolute", path.display());
    }
    if path.components().any(|component| component == Component::ParentDir) {
        bail!("`{}` has a `..`", path.display());
    }
    // Written anew: `//proc/.` is `/proc`.
    let path: PathBuf = path.components().collect();
    let closed = ["/proc", "/sys"].iter().any(|closed| path.starts_with(closed));
    if closed || path == Path::new("/") || path == Path::new("/dev") || path.starts_with("/dev/pts") {
        bail!("nothing can be mounted on `{}`", path.display());
    }
    Ok(path)
}

/// `NAME=SOFT[:HARD]`, as docker's: `-1` and `unlimited` are no limit.
pub fn ulimit(text: &str) -> Result<Limit> {
    let failed = || format!("set ulimit `{text}`");
    let (name, values) = text.split_once('=').with_context(|| format!("{}: NAME=SOFT[:HARD] is wanted", failed()))?;
    let resource = match name {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        _ => bail!("{}: there is no limit `{name}`", failed()),
    };
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse::<u64>().with_context(|| format!("{}: `{text}` is not a number", failed())),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let limit = Limit { resource, soft: number(soft)?, hard: number(hard)? };
    if limit.soft > limit.hard {
        bail!("{}: the soft limit is above the hard one", failed());
    }
    Ok(limit)
}

/// `KEY=VALUE` of a setting that belongs to a namespace of the container; the key as a file below /proc/sys.
pub fn sysctl(text: &str, host_network: bool) -> Result<(String, String)> {
    const OWN: [&str; 9] = [
        "kernel/domainname",
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    let failed = || format!("set sysctl `{text}`");
    let (key, value) = text.split_once('=').with_context(|| format!("{}: KEY=VALUE is wanted", failed()))?;
    // As sysctl(8): dots separate, unless the first separator is a slash (a link's name may have a dot).
    let slashes = key.find('/').is_some_and(|slash| key.find('.').is_none_or(|dot| slash < dot));
    let path = if slashes { key.to_owned() } else { key.replace('.', "/") };
    let plain = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..") && !path.contains('\0');
    let own =
        OWN.contains(&path.as_str()) || path.starts_with("fs/mqueue/") || (path.starts_with("net/") && !host_network);
    if !plain || !own {
        return Err(refused(
            format!("{}: it is not a setting of a container's namespaces", failed()),
            "net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm* and kernel.domainname are",
        ));
    }
    Ok((path, value.to_owned()))
}

/// `NAME:ADDRESS`; no address stands for `host-gateway`.
pub fn add_host(text: &str) -> Result<(String, Option<IpAddr>)> {
    let failed = || format!("add host `{text}`");
    let (name, address) =
        text.split_once([':', '=']).with_context(|| format!("{}: NAME:ADDRESS is wanted", failed()))?;
    let name = hostname(name).with_context(failed)?;
    if address == "host-gateway" {
        return Ok((name, None));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Ok((name, Some(address.parse().with_context(|| format!("{}: `{address}` is not an address", failed()))?)))
}

/// A host name: it becomes a line of /etc/hosts and the name of the UTS namespace.
pub fn hostname(name: &str) -> Result<String> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if name.is_empty() || name.len() > 63 || !plain || name.starts_with(['-', '.']) {
        let message = format!("use host name `{name}`: it is not one");
        return Err(refused(message, "letters, digits, `-`, `_` and `.`, at most 63"));
    }
    Ok(name.to_owned())
}

/// The entries of an environment file: `NAME=VALUE` or `NAME` a line, `#` begins a comment line.
pub fn env_file(text: &str) -> Result<Vec<String>> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let name = line.split('=').next().unwrap_or(line);
            if name.is_empty() || name.contains(char::is_whitespace) {
                bail!("`{line}` has no plain name");
            }
            Ok(line.to_owned())
        })
        .collect()
}

/// What a command line says of the environment, in its order: files first. `NAME=VALUE` each.
pub fn environment(files: &[PathBuf], entries: &[String]) -> Result<Vec<OsString>> {
    let mut all = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?;
        all.extend(env_file(&text).with_context(|| format!("read `{}`", path.display()))?);
    }
    all.extend(entries.iter().cloned());
    let mut values = Vec::new();
    for text in &all {
        values.extend(env(text, |name| std::env::var_os(name))?);
    }
    Ok(values)
}

/// `NAME=VALUE`, or `NAME` for the value that `outside` has; nothing where it has none.
pub fn env(text: &str, outside: impl Fn(&str) -> Option<OsString>) -> Result<Option<OsString>> {
    let name = text.split('=').next().unwrap_or(text);
    if name.is_empty() || text.contains('\0') {
        bail!("set environment `{text}`: NAME=VALUE or NAME is wanted");
    }
    if text.contains('=') {
        return Ok(Some(text.into()));
    }
    Ok(outside(name).map(|value| {
        let mut entry = OsString::from(format!("{name}="));
        entry.push(value);
        entry
    }))
}

/// `KEY=VALUE` or `KEY`, each of them.
pub fn labels(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let label = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            bail!("set label `{text}`: KEY=VALUE is wanted");
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(label).collect()
}

/// A signal by its name, with or without `SIG`, or its number.
pub fn signal(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |from: i32, distance: &str| distance.parse::<i32>().ok().map(|distance| from + distance);
    let number = match name {
        "POLL" => Some(libc::SIGPOLL),
        "RTMIN" => Some(libc::SIGRTMIN()),
        "RTMAX" => Some(libc::SIGRTMAX()),
        _ => (name.strip_prefix("RTMIN").and_then(|rest| real_time(libc::SIGRTMIN(), rest.strip_prefix('+')?)))
            .or_else(|| name.strip_prefix("RTMAX").and_then(|rest| real_time(libc::SIGRTMAX(), rest)))
            .or_else(|| text.parse().ok())
            .or_else(|| format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)),
    };
    number.filter(|number| (1..=64).contains(number)).ok_or_else(|| {
        refused(format!("use signal `{text}`: there is no such signal"), "as TERM, SIGTERM or 15, see signal(7)")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn volumes() {
        let Mount::Bind { source, target, read_only } = volume("/usr/.:/data//x/:ro").unwrap() else { panic!() };
        assert_eq!((source.as_path(), target.as_path(), read_only), (Path::new("/usr"), Path::new("/data/x"), true));
        for bad in [
            "/usr",
            "usr:/x",
            "/usr:x",
            "/usr:/x:rox",
            "/usr:/x:ro:ro",
            "/usr:/proc",
            "/usr:/proc/x",
            "/usr://sys",
            "/usr:/",
            "/usr:/a/../proc",
            "/no such place:/x",
            "/usr:/dev",
            "",
        ] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_options_are_those_that_are_known() {
        let Mount::Tmpfs { options, flags, .. } = tmpfs("/scratch:size=1m,exec,ro").unwrap() else { panic!() };
        assert_eq!(options, "size=1m");
        assert!(flags.contains(MountFlags::RDONLY) && !flags.contains(MountFlags::NOEXEC));
        assert!(tmpfs("/x:huge=always").is_err());
        assert!(tmpfs("/proc").is_err());
    }

    #[test]
    fn ulimits() {
        let limit = ulimit("nofile=10:20").unwrap();
        assert_eq!((limit.soft, limit.hard), (10, 20));
        assert_eq!(ulimit("core=0").unwrap().hard, 0);
        assert_eq!(ulimit("memlock=-1").unwrap().hard, u64::MAX);
        for bad in ["nofile", "nofile=", "nofile=x", "files=1", "nofile=20:10", "nofile=1:2:3"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sysctls_of_the_host_are_refused() {
        assert_eq!(sysctl("net.core.somaxconn=9", false).unwrap().0, "net/core/somaxconn");
        assert_eq!(sysctl("net/ipv4/conf/eth0.5/tag=9", false).unwrap().0, "net/ipv4/conf/eth0.5/tag");
        for bad in [
            "net.core.somaxconn",
            "kernel.core_pattern=x",
            "vm.swappiness=1",
            "net/../kernel/core_pattern=x",
            "net..x=1",
        ] {
            assert!(sysctl(bad, false).is_err(), "{bad}");
        }
        assert!(sysctl("net.core.somaxconn=9", true).is_err());
    }

    #[test]
    fn signals_by_any_spelling() {
        for (text, number) in
            [("TERM", 15), ("SIGKILL", 9), ("sigint", 2), ("1", 1), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-1", "TERMX", "RTMIN+99", "SIG"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_environment() {
        assert_eq!(add_host("db:192.0.2.1").unwrap(), ("db".into(), Some("192.0.2.1".parse().unwrap())));
        assert_eq!(add_host("db:2001:db8::1").unwrap().1, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(add_host("h:host-gateway").unwrap().1, None);
        assert!(add_host("a b:192.0.2.1").is_err() && add_host("x").is_err() && add_host("x:y").is_err());
        assert_eq!(env("A=b=c", |_| None).unwrap(), Some("A=b=c".into()));
        assert_eq!(env("A", |_| Some("x".into())).unwrap(), Some("A=x".into()));
        assert_eq!(env("A", |_| None).unwrap(), None);
        assert!(env("=x", |_| None).is_err());
        assert_eq!(env_file("# c\n\nA=1\n  B\n").unwrap(), ["A=1", "B"]);
        assert!(env_file("A B=1").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}") {
            let _ = volume(&text);
            let _ = tmpfs(&text);
            let _ = ulimit(&text);
            let _ = sysctl(&text, false);
            let _ = add_host(&text);
            let _ = env(&text, |_| None);
            let _ = env_file(&text);
        }

        #[test]
        fn no_target_leads_to_the_kernels_files(text in "(/|\\.|\\.\\.|proc|sys|x){1,8}") {
            if let Ok(path) = target_path(Path::new(&text)) {
                prop_assert!(!path.starts_with("/proc") && !path.starts_with("/sys") && path != Path::new("/"));
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir)));
            }
        }

        #[test]
        fn accepted_sysctls_stay_below_their_directory(text in "(net|kernel|/|\\.|\\.\\.|a|=){1,9}") {
            if let Ok((key, _)) = sysctl(&text, false) {
                prop_assert!(!key.split('/').any(|part| part == ".." || part.is_empty()));
            }
        }
    }
}
