//! The only unsafe code: system calls that no crate in use wraps, thin and without policy.
//!
//! Called by `init.rs`, `launch.rs`, `supervise.rs` and `sandbox/`. Every function returns the kernel's error as it is; what
//! it means for a person is said by the caller.

#![allow(unsafe_code)]

pub mod ip_tables;
mod links;
pub mod packet;

pub use self::links::{add_tap, has_carrier, link_index, netlink_socket, netns_cookie};

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

use crate::sandbox::seccomp::Instruction;

/// A process made by [`clone3`], as its parent sees it.
#[derive(Debug)]
pub struct Child {
    /// Its id in the caller's PID namespace.
    pub pid: i32,
    /// A descriptor that names the process for ever: unlike the id it is never used again. Readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Which side of [`clone3`] has returned.
#[derive(Debug)]
pub enum Side {
    /// The caller.
    Parent(Child),
    /// The new process. It has copies of the caller's memory and descriptors.
    Child,
}

/// Copies the calling process into the new namespaces named by `flags` (`CLONE_NEW*`), see clone3(2).
///
/// Errors: `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` at a limit of namespaces, `EINVAL` for a namespace that the kernel was
/// built without.
///
/// With `cgroup`, the directory of a cgroup of version 2, the new process is born in it (`CLONE_INTO_CGROUP`). With
/// `CLONE_PARENT` it is a child of the caller's parent, to which its end is told as the caller's would be.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`: every field is an integer and zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    args.exit_signal = if sibling { 0 } else { libc::SIGCHLD as u64 };
    if let Some(cgroup) = cgroup {
        // The crate's constant has too few bits.
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` lives across the call and has the size that is passed. No stack and no CLONE_VM: the child goes on with
    // its own copy of this stack, as after fork. The process has one thread (asserted by the caller), so no lock is held by
    // a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: the kernel has stored a new descriptor in `pidfd` when clone3 succeeds with CLONE_PIDFD, and nobody
            // else owns it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent(Child { pid: pid as i32, pidfd }))
        }
    }
}

/// A new process by fork(2) with the same namespaces.
pub fn fork() -> nix::Result<nix::unistd::ForkResult> {
    // SAFETY: the process has one thread, so the child finds every lock free.
    unsafe { nix::unistd::fork() }
}

/// Ends the process at once: no guard runs, nothing is flushed. For a child that has a copy of its parent's guards.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

/// How many threads this process has.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Lets go of the pages of this program's code that are in memory for this process (madvise(2), MADV_DONTNEED). Nothing is
/// lost: what is needed again is mapped again. Who has started a container needs little of it while that runs.
pub fn forget_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let own = std::env::current_exe().unwrap_or_default();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp"), Some(path)) = (words.next(), words.next(), words.nth(3)) else { continue };
        let ends = range.split_once('-').map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)));
        let Some((Ok(start), Ok(end))) = ends.filter(|_| own.as_os_str() == path) else { continue };
        // SAFETY: the range is mapped from this program's file and cannot be written to, so that dropping its pages changes
        // nothing: the next use maps the same ones again.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Has the kernel ask a program of classic BPF which messages a socket gets (socket(7), SO_ATTACH_FILTER).
pub fn attach_filter(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `program`, whose instructions live across the call, and writes nothing.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Of which kind the namespace is that `namespace` is open on, `CLONE_NEW*` (ioctl_nsfs(2)).
pub fn kind_of_namespace(namespace: impl AsFd) -> io::Result<i32> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this request takes no argument; the descriptor is open, because it is borrowed.
    let kind = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

/// Changes attributes of the mount at `path` below `dir` (the mount of `dir` itself for an empty path), see
/// mount_setattr(2). `set` and `clear` are `MOUNT_ATTR_*`, `propagation` is an `MS_*` propagation type or 0.
pub fn mount_setattr(
    dir: impl AsFd,
    path: &CStr,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let mut flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `path` is a C string and `attr` has the size that is passed; both live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the detached mount `tree`, and what is mounted below it, show its ids through the maps of the user namespace `user`
/// (`MOUNT_ATTR_IDMAP`, Linux 5.12).
///
/// Errors: `EINVAL` where a file system cannot do that, `EPERM` where a mount does so already.
pub fn mount_idmap(tree: impl AsFd, user: impl AsFd) -> io::Result<()> {
    let userns_fd = user.as_fd().as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: the path is a C string and `attr` has the size that is passed; both live across the call, and so do the
    // descriptors, which are borrowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Marks every descriptor from `first` on to be closed by execve, see close_range(2).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: integers only; marking a descriptor close-on-exec takes it from nobody.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets every signal to its default action and unblocks all: an ignored signal and a mask survive execve (signal(7)), and
/// Rust's runtime ignores SIGPIPE. By the system call itself: libc refuses two signals that it uses, and ignores them in what
/// it spawns.
pub fn reset_signals() -> io::Result<()> {
    const SIGNALS: i32 = 64;
    // `struct kernel_sigaction`: handler, flags, restorer, mask. All zero is SIG_DFL.
    let default = [0u64; 4];
    for signal in 1..=SIGNALS {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: `default` is as large as the kernel's structure and lives across the call; no handler is installed and
        // nothing is written back. SIGKILL and SIGSTOP are refused and have their default action anyway, which is why the
        // result is not looked at.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, size_of::<u64>()) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask().map_err(io::Error::from)
}

/// Whether a signal is ignored by this process.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero is a valid `sigaction`, and the kernel only writes to it: no new action is given.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `now` lives across the call and is of the type that libc expects.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) };
    result == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Drops from the bounding set every capability whose bit in `keep` is zero, also those that this program has no name for:
/// the kernel's list is walked to its end (capabilities(7), prctl(2) PR_CAPBSET_DROP).
pub fn drop_bounding_except(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: integers only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
            let error = io::Error::last_os_error();
            // The kernel knows no capability of this number: the end of its list.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Makes the terminal `tty` the controlling terminal of this session (which must have none), see ioctl_tty(2).
pub fn set_controlling_terminal(tty: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer argument; 0 means that no terminal is taken from another session.
    let result = unsafe { libc::ioctl(tty.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// So many descriptors go in one message at most: the four sockets of a network, those of its way to the host, and its tap
/// devices.
pub const MOST_DESCRIPTORS: usize = 4 + crate::net::access::SOCKETS + crate::net::tap::MOST;

/// Receives one message of at most `buffer.len()` bytes and at most [`MOST_DESCRIPTORS`] descriptors from a SEQPACKET socket, the
/// descriptors marked close-on-exec. Zero bytes mean that the other side has closed.
pub fn receive_with_fds(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut space = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut slices = [io::IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::Error::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for raw in received {
                // SAFETY: the kernel has just installed this descriptor for us and nobody else knows its number.
                fds.push(unsafe { OwnedFd::from_raw_fd(raw) });
            }
        }
    }
    Ok((message.bytes, fds))
}

/// `path` as a C string; an error where it holds a zero byte.
pub fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Takes over a descriptor that a call has just returned.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller has it from a system call that makes a descriptor, and gives it to nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor from `first` on, see close_range(2). Only where the process owns none of them: what it was started
/// with by accident.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: called before the program has opened anything, so no owner of one of them exists.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Closes every descriptor but 0 to 2 and those. For a process that goes on to another program or ends, and drops nothing
/// that owned one of them.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for last in numbers.into_iter().filter(|number| *number > 2).map(|number| number - 1).chain([libc::c_uint::MAX]) {
        if first <= last {
            // SAFETY: integers only; by the contract above no owner of one of them is used again.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

/// Sends any signal, a real-time one too, to the process that a descriptor names, see pidfd_send_signal(2).
pub fn pidfd_send_signal(process: impl AsFd, number: i32) -> io::Result<()> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: integers and a null pointer, which stands for what kill(2) would send.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_fd().as_raw_fd(), number, none, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Replaces the command line and the environment that others see of this process (proc_pid_cmdline(5)): both may hold
/// secrets. The environment is empty from here on for this program too.
pub fn set_title(title: &str) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    let Some((_, fields)) = stat.rsplit_once(')') else { return };
    // Fields 48 to 51 of proc_pid_stat(5): where arguments and environment begin and end.
    let mut fields = fields.split_whitespace().skip(45).map_while(|field| field.parse::<usize>().ok());
    let (Some(start), Some(arguments_end)) = (fields.next(), fields.next()) else { return };
    let (Some(environment), Some(end)) = (fields.next(), fields.next()) else { return };
    if start == 0 || arguments_end <= start || environment == 0 || end < environment {
        return;
    }
    let place = start as *mut u8;
    let length = title.len().min(arguments_end - start - 1);
    // SAFETY: the kernel has put the strings of the arguments there, writable, at the top of the stack, and says where they
    // end. This program has one thread and has copied what it needs of them (`std::env::args_os`); nothing holds a reference
    // into them.
    unsafe { std::ptr::write_bytes(place, 0, arguments_end - start) };
    // SAFETY: as above; `length` is shorter than the place, and the two do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(title.as_ptr(), place, length) };
    // SAFETY: as above, for the strings of the environment. The list of pointers to them stays, and they are empty strings
    // from now on, which std::env passes over.
    unsafe { std::ptr::write_bytes(environment as *mut u8, 0, end - environment) };
}

/// Puts this thread, and what it executes, under a system call filter (seccomp(2), `SECCOMP_SET_MODE_FILTER`).
pub fn install_filter(program: &[Instruction], flags: u32) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // The kernel only reads it, although the pointer is not const.
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `filter` leads to `len` instructions, which have the layout of `sock_filter` (repr(C), the same fields); both
    // live across the call, and the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the session keyring that was inherited for a new and empty one (keyctl(2)). A kernel without keyrings has none to
/// leave.
pub fn join_own_session_keyring() -> io::Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name means a keyring without a name, and nothing is read.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, none) };
    match io::Error::last_os_error() {
        error if result == -1 && error.raw_os_error() != Some(libc::ENOSYS) => Err(error),
        _ => Ok(()),
    }
}
