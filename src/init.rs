//! THE CHILD: the steps from clone to execve, in order.
//!
//! [`run`] is called by `launch.rs` in the new process, which is process 1 of its PID namespace and alone in all of its
//! namespaces. It never returns: it becomes the program, or says why it cannot and ends. ARCHITECTURE.md lists the steps.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{CWD, FileType, Mode as FileMode, OFlags, ResolveFlags, fstat, makedev, openat, openat2};
use rustix::process::{Signal, set_parent_process_death_signal, umask};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout, stderr, stdin, stdout};

use crate::error::{Advice, EXIT_CANNOT_RUN, EXIT_FAILED, EXIT_NOT_FOUND, exit_code_of};
use crate::held::Pipes;
use crate::joiner;
use crate::net::change::announce;
use crate::net::step::Step;
use crate::plan::{Plan, Process};
use crate::reaper;
use crate::sandbox::cgroup::Entrance;
use crate::sandbox::devices::{self, Terminal};
use crate::sandbox::layout::Placed;
use crate::sandbox::namespaces::Whose;
use crate::sandbox::userns::UserNamespace;
use crate::sandbox::{credentials, host_devices, masks, mounts, procfs, rootfs};
use crate::sync::End;
use crate::sys;

/// What the new process is given, beside the plan.
#[derive(Debug)]
pub struct Given<'a> {
    /// The socket to the parent.
    pub parent: &'a End,
    /// The sealed copy of this program that is process 1 under `--init`.
    pub reaper: Option<&'a OwnedFd>,
    /// Its standard streams, where they are held.
    pub pipes: Option<&'a Pipes>,
    /// What leads into the container's groups, if it has some.
    pub cgroup: Option<&'a Entrance>,
    /// Where it tells of the process that it makes in another container's PID namespace.
    pub made: Option<PipeWriter>,
}

/// Becomes the program of `plan`.
pub fn run(plan: &Plan, given: Given<'_>) -> ! {
    carry_out(given.parent, || become_program(plan, given))
}

/// Does the work of a child, which is to become a program, and says why it could not.
pub fn carry_out(parent: &End, work: impl FnOnce() -> Result<Infallible>) -> ! {
    // Whatever happens, this process must not unwind into the code of the parent whose memory it has a copy of: the guards
    // there would undo what the parent is doing.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let (code, error) = match outcome {
        Ok(Err(error)) => (exit_code_of(&error), format!("{error:#}")),
        Ok(Ok(never)) => match never {},
        Err(_) => (EXIT_FAILED, "start the container: a bug of minirun's stopped its process".to_owned()),
    };
    // Where minirun is gone nobody listens, and nobody needs to.
    let _ = parent.failed(code, &error);
    sys::exit_now(code)
}

fn become_program(plan: &Plan, given: Given<'_>) -> Result<Infallible> {
    let Given { parent, reaper, pipes, cgroup, made } = given;
    // Before anything else, so that a killed minirun takes this process along. If it was killed before this line, the end of
    // its socket is found further down.
    die_with_parent()?;
    // Before anything that uses memory, so that it counts.
    let enter = if matches!(plan.namespaces.cgroup, Whose::Own) { Entrance::enter } else { Entrance::join };
    cgroup.map_or(Ok(()), enter)?;
    rustix::process::setsid().context("make a session")?;
    plan.namespaces.join()?;
    if let Some(score) = plan.layout.as_ref().and_then(|layout| layout.oom_score_adj) {
        let set =
            || File::options().write(true).open("/proc/self/oom_score_adj")?.write_all(score.to_string().as_bytes());
        set().context("set oom_score_adj")?;
    }
    // First of all the socket: the parent configures the network by it while this process goes on.
    let mut sockets = plan.network.open_inside()?;
    // The last one, and before any link is up: no packet is missed.
    if let Some(capture) = &plan.capture {
        sockets.push(capture.open_inside()?);
    }
    parent.inside(&sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
    drop(sockets);

    umask(FileMode::empty());
    rootfs::leave_host_mounts()?;
    let userns = plan.userns.as_ref();
    let within = userns.map(UserNamespace::fd).transpose()?;
    let privileged = plan.openings.privileged;
    // While the host's files are in sight.
    let sources = mounts::copy_sources(&plan.mounts, privileged, within)?;
    let placed = match &plan.layout {
        Some(layout) => {
            let copies = layout.copy(&plan.lower, plan.namespaces.processes())?;
            Some(layout.assemble(copies, &plan.lower, &plan.files)?)
        }
        None => make_own_layout(plan, within).map(|()| None)?,
    };
    let root = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())?;
    let uid = plan.process.user.uid;
    let uid = userns.map_or(uid, |user| user.host_uid(uid));
    let terminal = plan.process.terminal.then(|| devices::make_terminal(root.as_fd(), uid)).transpose()?;
    // After the kernel's file systems, which no volume can cover, and before the root may become read-only.
    mounts::place(root.as_fd(), &plan.mounts, sources)?;
    host_devices::give(root.as_fd(), &plan.openings.devices, userns)?;
    // The settings are written through a descriptor from before /proc/sys becomes read-only, which no name leads to.
    let settings = match &placed {
        Some(placed) => open_settings_of_bundle(plan, placed)?,
        None => openat(CWD, "proc/sys", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
            .context("open `/proc/sys`")?,
    };
    if let (Some(layout), Some(placed)) = (&plan.layout, &placed) {
        layout.mask(placed)?;
    }
    if plan.masked {
        masks::apply()?;
    }
    drop(placed);
    // After the masks, because a directory that was opened below one stays what it was: from `/proc/sys/kernel` the settings of
    // the host could be written. Made before the root becomes read-only, and entered when it is the root.
    let workdir = rootfs::open_working_directory(root.as_fd(), &plan.process.workdir)?;
    drop(root);
    rootfs::pivot(plan.read_only)?;

    if matches!(plan.namespaces.uts, Whose::Own) {
        nix::unistd::sethostname(&plan.hostname).context("set the host name")?;
    }
    rootfs::enter_working_directory(workdir, &plan.process.workdir)?;
    connect_stdio(&plan.process, terminal.as_ref(), pipes, false)?;
    if made.is_none() {
        take_terminal(&plan.process)?;
    }
    umask(FileMode::from_raw_mode(plan.layout.as_ref().and_then(|layout| layout.umask).unwrap_or(0o022)));

    parent.ready(terminal.as_ref().map(|terminal| terminal.master.as_fd()))?;
    drop(terminal);
    // Until the network is built and the container is on record.
    parent.wait_for_go()?;
    // Some settings are a link's, so the links must be there.
    for step in plan.network.own_steps() {
        let make = || match step {
            Step::Sysctl { key, value, .. } => set(settings.as_fd(), key, value),
            step => announce(step),
        };
        plan.network.narrator.as_ref().map_or_else(make, |narrator| narrator.measure(make))?;
    }
    drop(settings);

    if !plan.namespaces.has_own_processes() {
        // Others see this process, which until execve is minirun: with few rights left, its program could be opened by them
        // (CVE-2019-5736). execve takes it back.
        joiner::hide()?;
    }
    match made {
        Some(made) => {
            plan.namespaces.join_processes()?;
            joiner::hand_over(&plan.process, None, parent, made, || become_program_among_others(plan, parent))
        }
        None => confine_and_execute(&plan.process, reaper, Some(parent), within),
    }
}

/// The rest, in a process that is seen by those of another container.
fn become_program_among_others(plan: &Plan, parent: &End) -> Result<Infallible> {
    die_with_parent()?;
    rustix::process::setsid().context("make a session")?;
    take_terminal(&plan.process)?;
    // Until its number is on record.
    parent.wait_for_go()?;
    confine_and_execute(&plan.process, None, Some(parent), None)
}

/// Makes the root file system and the mounts that a container has unless a bundle says otherwise; `within` is its user
/// namespace.
fn make_own_layout(plan: &Plan, within: Option<BorrowedFd<'_>>) -> Result<()> {
    let (userns, privileged) = (plan.userns.as_ref(), plan.openings.privileged);
    let mapped = within.map(|within| rootfs::map_lower(&plan.lower, within)).transpose()?;
    let cgroups = privileged.then(mounts::copy_cgroups).transpose()?;
    let shm = plan.namespaces.shared_memory()?;
    let proc = plan.namespaces.processes().map(|pid| procfs::mount_of(pid, &[], mounts::CLOSED)).transpose();
    let proc = proc.context("mount `/proc`")?;
    userns.map_or(Ok(()), UserNamespace::own_files)?;
    rootfs::assemble(&plan.lower, &plan.files, mapped.as_ref(), privileged)?;
    drop(mapped);
    mounts::kernel_file_systems(proc.as_ref(), cgroups.as_ref(), privileged)?;
    drop((proc, cgroups));
    let tty = userns.map_or(devices::TTY, |user| user.host_gid(devices::TTY));
    devices::make(tty, plan.openings.shm_size, shm.as_ref(), privileged)?;
    userns.map_or(Ok(()), UserNamespace::own_devices)
}

/// The directory of the settings; where there are none to be made a bundle need not have it.
fn open_settings_of_bundle(plan: &Plan, placed: &Placed) -> Result<OwnedFd> {
    if plan.network.settings().next().is_none() {
        return Ok(placed.root().try_clone_to_owned()?);
    }
    let found = placed.find(Path::new("/proc/sys")).context("open `/proc/sys`")?;
    found.context("open `/proc/sys`: the bundle does not mount it")
}

/// Gives up what the process must not have, and becomes the program; `reaper` in its stead, if there is one. `parent` takes
/// the process along when it ends; `within` is the user namespace that it is to be in.
pub fn confine_and_execute(
    process: &Process,
    reaper: Option<&OwnedFd>,
    parent: Option<&End>,
    within: Option<BorrowedFd<'_>>,
) -> Result<Infallible> {
    sys::join_own_session_keyring().context("make a session keyring")?;
    sys::reset_signals().context("reset signals")?;
    credentials::assume(process, within)?;
    if let Some(parent) = parent {
        // Again: the kernel forgets it with a change of credentials (prctl(2)). Was minirun killed in between, nobody told us.
        die_with_parent()?;
        parent.parent_lives()?;
    }
    // Whatever minirun was started with, the program gets descriptors 0 to 2 and no other.
    sys::close_on_exec_from(3).context("close descriptors")?;
    // Last of all, so that a strict filter need not let through what only minirun does. Without no_new_privs it takes a
    // privilege that is gone here, and was installed before.
    if let (Some(filter), true) = (&process.filter, process.no_new_privileges) {
        filter.install()?;
    }
    match reaper {
        Some(reaper) => reaper::execute(reaper, &process.argv, &process.env),
        None => execute(&process.argv, &process.env),
    }
}

/// Ends this process with its parent.
pub fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("set the parent death signal")
}

/// Gives the program its descriptors 0 to 2: the terminal, its pipes, or minirun's own; without `-i` it reads from
/// `/dev/null`, and if it is to be `mute` it writes there too.
pub fn connect_stdio(process: &Process, terminal: Option<&Terminal>, pipes: Option<&Pipes>, mute: bool) -> Result<()> {
    let failed = "connect standard input and output";
    if let Some(terminal) = terminal {
        dup2_stdin(&terminal.slave).context(failed)?;
        dup2_stdout(&terminal.slave).context(failed)?;
        return dup2_stderr(&terminal.slave).context(failed);
    }
    // The container's own null device, not the host's: a program that is root can change its mode and owner.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let null = openat(CWD, "/dev/null", flags, FileMode::empty()).context("open `/dev/null`")?;
    let is_null = |fd: BorrowedFd<'_>| -> Result<bool> {
        let stat = fstat(fd).context(failed)?;
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3))
    };
    if !is_null(null.as_fd())? {
        bail!("{failed}: the container's `/dev/null` is not the null device");
    }
    if let Some(Pipes { stdin, stdout, stderr }) = pipes {
        dup2_stdin(stdin.as_ref().unwrap_or(&null)).context(failed)?;
        dup2_stdout(stdout).context(failed)?;
        return dup2_stderr(stderr).context(failed);
    }
    if !process.interactive || is_null(stdin())? {
        dup2_stdin(&null).context(failed)?;
    }
    if mute || is_null(stdout())? {
        dup2_stdout(&null).context(failed)?;
    }
    if mute || is_null(stderr())? {
        dup2_stderr(&null).context(failed)?;
    }
    Ok(())
}

/// Makes the terminal that it has as its standard input, if it is to have one, that of its session, which it leads.
pub fn take_terminal(process: &Process) -> Result<()> {
    if process.terminal {
        sys::set_controlling_terminal(stdin()).context("take the terminal")?;
    }
    Ok(())
}

/// Writes a setting to a file that is checked to be the kernel's own.
fn set(settings: BorrowedFd<'_>, key: &str, value: &str) -> Result<()> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let write = || -> Result<()> {
        let file = rootfs::open_inside(settings, Path::new(key), OFlags::WRONLY)?;
        if rustix::fs::fstatfs(&file)?.f_type != PROC_SUPER_MAGIC {
            bail!("it is not a file of the kernel's");
        }
        Ok(File::from(file).write_all(value.as_bytes())?)
    };
    write().with_context(|| format!("set sysctl `{}` to `{value}`", key.replace('/', ".")))
}

/// Executes the program, found as a shell finds it: by its path if it has a slash, else in the directories of the
/// environment's PATH.
pub fn execute(argv: &[CString], env: &[CString]) -> Result<Infallible> {
    let program = argv.first().ok_or_else(|| anyhow!("run: no program"))?;
    let failed = format!("run `{}`", program.to_string_lossy());
    let mut found: Option<nix::Error> = None;
    for path in candidates(program, env) {
        // A look is cheaper than an execve that fails. It follows no magic link: `/proc/self/exe` is minirun here.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(CWD, &path, flags, FileMode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => continue,
            Err(rustix::io::Errno::LOOP) => {
                found = Some(nix::Error::ELOOP);
                continue;
            }
            _ => {}
        }
        match nix::unistd::execve(&path, argv, env) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => {}
            // As execvp(3): another directory may have one that can be executed.
            Err(nix::Error::EACCES) => found = Some(nix::Error::EACCES),
            Err(error) => {
                found = Some(error);
                break;
            }
        }
    }
    let has_path = program.to_bytes().contains(&b'/');
    let Some(error) = found else {
        let place = if has_path { "no such file in the container" } else { "not found in the container's PATH" };
        // A file that is there and a missing interpreter or loader are the same error to the kernel.
        let missing: Result<Infallible> =
            if has_path && Path::new(std::ffi::OsStr::from_bytes(program.to_bytes())).exists() {
                Err(anyhow!("{failed}: its interpreter or loader is not in the container"))
            } else {
                Err(anyhow!("{failed}: {place}"))
            };
        return missing.exit_code(EXIT_NOT_FOUND);
    };
    let cause = match error {
        nix::Error::EACCES => "it is a directory, or not executable".to_owned(),
        nix::Error::ELOOP => "its path leads in a circle or through a link of /proc".to_owned(),
        nix::Error::ENOEXEC => "it is no program for this machine, nor a script with `#!`".to_owned(),
        other => other.desc().to_owned(),
    };
    Err(anyhow!("{failed}: {cause}")).exit_code(EXIT_CANNOT_RUN)
}

fn candidates(program: &CStr, env: &[CString]) -> Vec<CString> {
    let bytes = program.to_bytes();
    if bytes.contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/bin:/usr/bin");
    path.split(|byte| *byte == b':')
        .filter_map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", bytes].concat()).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_path_unless_they_have_a_slash() {
        let env = [c"A=b".to_owned(), c"PATH=/bin::/x".to_owned()];
        assert_eq!(candidates(c"ls", &env), [c"/bin/ls".to_owned(), c"./ls".to_owned(), c"/x/ls".to_owned()]);
        assert_eq!(candidates(c"./ls", &env), [c"./ls".to_owned()]);
        assert_eq!(candidates(c"ls", &[]).len(), 2);
    }
}
