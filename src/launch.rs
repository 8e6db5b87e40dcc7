//! THE PARENT: the steps of a launch, in order, from a plan to a running program, and its end.
//!
//! Called by `commands/run.rs`. Everything that is made is held by a guard, so that an error, a signal or a panic undoes it;
//! what a SIGKILL leaves, the kernel ends, or the next command sweeps.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::libc;
use nix::sched::{CloneFlags, setns};

use crate::capture::Recorder;
use crate::container::Container;
use crate::control::{self, Control};
use crate::error::{self, Advice, warn};
use crate::held::{self, Held, Pipes};
use crate::holder::Caller;
use crate::init::Given;
use crate::log::{Stream, Writer};
use crate::net::publish::Port;
use crate::net::removal;
use crate::net::services::Services;
use crate::plan::Plan;
use crate::sandbox::cgroup::{self, Cgroup, Entrance};
use crate::sandbox::seccomp::Choice;
use crate::sandbox::userns::UserNamespace;
use crate::state::{self, Entry, Exit, Found, State};
use crate::supervise::{Io, Signals, Watch};
use crate::sync;
use crate::sys::{self, Side};
use crate::terminal::{self, Relay};
use crate::{init, reaper};

/// Runs a container from its first step to its end. The exit code of its program, and the command that was typed if it waits
/// for that still.
///
/// `caller` is that command where it can go before the container does. `again` is the container, where it has run before.
pub fn run(
    plan: &mut Plan,
    root: &Path,
    again: Option<&Found>,
    signals: &mut Signals,
    mut caller: Option<Caller>,
) -> (Option<Caller>, Result<u8>) {
    let (caller, ended) = match launch(plan, root, again, &mut caller) {
        Ok(launched) => until_end(plan, launched, signals, caller),
        Err(error) => {
            plan.network.unprepare();
            (caller, Err(error))
        }
    };
    // What failed before the container's end has not done it, and no later command would know of them.
    let released = plan.network.release();
    (caller, ended.and_then(|code| released.map(|()| code)))
}

/// A container whose program runs.
struct Launched {
    state: State,
    entry: Entry,
    cgroup: Option<Cgroup>,
    container: Container,
    services: Services,
    io: Io,
}

fn launch(plan: &mut Plan, root: &Path, again: Option<&Found>, caller: &mut Option<Caller>) -> Result<Launched> {
    let state = State::open(root)?;
    let mut entry = match again {
        None => state.reserve(&plan.record)?,
        Some(found) => state.revive(found, &plan.record)?,
    };
    let cgroup = plan.cgroup.as_ref().map(cgroup::Plan::make).transpose()?;
    plan.network.prepare()?;
    if let Some(user) = &mut plan.userns {
        user.make()?;
    }
    let detached = plan.record.detached;
    let uid = plan.userns.as_ref().map_or(plan.process.user.uid, |ids| ids.host_uid(plan.process.user.uid));
    let pipes = detached && !plan.process.terminal;
    let (ends, given) = pipes.then(|| held::make_pipes(uid, plan.process.interactive)).transpose()?.unzip();
    // The log last: it is told of in the record, and goes with the entry.
    let log = if detached { open_log(plan)? } else { None };
    plan.namespaces.note_joined()?;
    let begin = plan.network.narrator.as_ref().map(|_| Instant::now());
    let mut container = spawn(plan, given, cgroup.as_ref().map(Cgroup::entrance))?;
    if let (Some(begin), Some(narrator), false) = (begin, &mut plan.network.narrator, plan.network.mode.joins()) {
        narrator.tell_namespace(begin.elapsed());
    }
    let mut tap = None;
    plan.network.attach(container.pid() as u32, || {
        let mut sockets = container.inside()?;
        tap = plan.capture.as_ref().and_then(|_| sockets.pop());
        Ok(sockets)
    })?;
    // While the child is still busy with its mounts; if it fails after this, the guard takes the record away again.
    let is_joiner = container.is_joiner();
    if !is_joiner {
        put_on_record(plan, &mut entry, container.pid())?;
    }
    // From here on the program may run. Said before the child asks, it need not wait for an answer; but a terminal must have
    // its size first, and who is told the ID must find all of it.
    let shares_processes = !plan.namespaces.has_own_processes();
    let early = !plan.process.terminal && !detached && !shares_processes;
    if early {
        container.go()?;
    }
    let master = container.ready()?;
    if shares_processes {
        // While its process waits, in the mount namespace that all of the container will be in.
        container.note_the_rest()?;
    }
    let io = match (ends, master) {
        (Some(ends), _) => Io::Held(Box::new(Held::pipes(ends, entry.path(), log)?)),
        (None, Some(master)) if detached => {
            let slave = terminal::prepare(&master)?;
            Io::Held(Box::new(Held::terminal(master, slave, entry.path(), log)?))
        }
        (None, Some(master)) => {
            let keys = caller.as_ref().map(|_| plan.detach_keys.clone());
            Io::Relay(Box::new(Relay::start(master, plan.process.interactive, keys)?))
        }
        (None, None) => Io::Inherited,
    };
    if is_joiner {
        container.enter()?;
        put_on_record(plan, &mut entry, container.pid())?;
    }
    if !early {
        container.go()?;
    }
    container.running()?;
    plan.network.tell_the_rest()?;
    // While the program begins: what it asks for meanwhile is in the sockets' queues.
    let mut services = plan.network.services()?;
    if let (Some(capture), Some(tap)) = (plan.capture.take(), tap) {
        services.capture = Some(Recorder::begin(capture, tap, &plan.record, root)?);
    }
    if !plan.network.mode.joins() {
        services.control = Some(Control::listen(entry.path())?);
    }
    tell_what_is_published(&plan.network.ports);
    plan.write_ids()?;
    if detached && let Some(command) = caller.take() {
        if again.is_none() {
            error::print(&format!("{}\n", plan.record.id))?;
        }
        command.let_go()?;
        sys::forget_code();
    }
    Ok(Launched { state, entry, cgroup, container, services, io })
}

/// Puts on disk what is known of the container, and its first process `pid`.
fn put_on_record(plan: &mut Plan, entry: &mut Entry, pid: i32) -> Result<()> {
    plan.record.pid = Some(pid);
    plan.record.pid_start = state::start_time(pid);
    // Whoever finds its process may ask for these.
    if let Some(arguments) = &plan.arguments {
        entry.write("arguments", arguments)?;
    }
    if let (Choice::File(_), Some(filter)) = (&plan.record.inside.security.seccomp, &plan.process.filter) {
        entry.write("filter", &filter.to_bytes())?;
    }
    entry.commit(&plan.record)?;
    if !plan.network.mode.joins() {
        state::netns::name(&plan.record)?;
    }
    Ok(())
}

fn until_end(
    plan: &mut Plan,
    launched: Launched,
    signals: &mut Signals,
    caller: Option<Caller>,
) -> (Option<Caller>, Result<u8>) {
    let Launched { state, mut entry, cgroup, mut container, services, io } = launched;
    let mut swept = Ok(());
    // The first part at any rate, the rest as long as the container runs. That it fails does not end the container.
    let mut sweep = state.sweep().map_err(|error| swept = Err(error)).ok();
    let mut work = || {
        sweep.as_mut().is_some_and(|sweep| {
            sweep.go_on().unwrap_or_else(|error| {
                swept = Err(error);
                false
            })
        })
    };
    work();
    let path = entry.path().to_owned();
    let record = std::cell::RefCell::new((&mut entry, &mut *plan));
    let let_go = |relay: Relay| {
        let (entry, plan) = &mut *record.borrow_mut();
        let (master, slave, unseen) = relay.let_go();
        plan.record.detached = true;
        plan.record.log = Some(plan.log_directory.clone());
        entry.commit(&plan.record)?;
        let mut held = Held::terminal(master, slave, &path, open_log(plan)?)?;
        held.pass_on(Stream::Stdout, &unseen);
        Ok(held)
    };
    let init = record.borrow().1.process.init || !record.borrow().1.namespaces.has_own_processes();
    let watch = Watch::new(&mut container, signals, io, init, services);
    let change = |services: &mut Services| {
        let (entry, plan) = &mut *record.borrow_mut();
        if let Some(control) = services.control.take() {
            control.answer(|asked| control::act(entry, plan, services, asked));
            services.control = Some(control);
        }
    };
    let (caller, outcome) = watch.until_end(caller, let_go, change, work);
    let ended = outcome.and_then(|code| {
        let release = plan.network.release();
        let unplugged = if state::is_plugged(&path) { removal::unplug(&plan.network.interfaces) } else { Ok(()) };
        let (oom, removed) = cgroup.map_or((false, Ok(())), |cgroup| end_groups(cgroup, &plan.record.name));
        plan.network.let_go();
        entry.end(Exit::now(code, oom)).and(release).and(unplugged).and(removed).and(swept).map(|()| code)
    });
    (caller, ended)
}

/// Says where each port is, and who reaches it.
fn tell_what_is_published(ports: &[Port]) {
    const MOST_TOLD: usize = 8;
    for port in ports.iter().take(MOST_TOLD) {
        let who = if port.is_exposed() { ", for other machines too" } else { "" };
        error::note(&format!("published {port}{who}"));
    }
    if ports.len() > MOST_TOLD {
        error::note(&format!("published {} more: see `minirun port`", ports.len() - MOST_TOLD));
    }
}

/// Begins or continues the log of a detached container, which its record names already.
fn open_log(plan: &Plan) -> Result<Option<Writer>> {
    let Some(directory) = &plan.record.log else { return Ok(None) };
    if let Some(all) = directory.parent() {
        state::private_directory(all)?;
    }
    state::private_directory(directory)?;
    Ok(Some(Writer::open(directory, &plan.log)?))
}

/// Removes the groups, in which nobody is any more. Whether the memory limit ended a process, which is told.
fn end_groups(cgroup: Cgroup, name: &str) -> (bool, Result<()>) {
    let oom = cgroup::oom_killed(cgroup.groups());
    if oom {
        warn(&format!("container {name}: a process was ended by the memory limit: give more with --memory"));
    }
    (oom, cgroup.remove())
}

fn spawn(plan: &Plan, pipes: Option<Pipes>, cgroup: Option<&Entrance>) -> Result<Container> {
    let reaper = plan.process.init.then(reaper::sealed_copy).transpose()?;
    let (ours, theirs) = sync::pair()?;
    let mut flags = libc::CLONE_NEWNS | plan.namespaces.made();
    if cgroup.is_some() {
        // With groups of its own the child makes that namespace when it is in them.
        flags &= !libc::CLONE_NEWCGROUP;
    }
    if !plan.network.mode.joins() && plan.userns.is_none() {
        flags |= libc::CLONE_NEWNET;
    }
    debug_assert_eq!(sys::threads(), 1, "clone3 copies one thread only");
    let (number, made) = plan.namespaces.processes().map(|_| std::io::pipe()).transpose()?.unzip();
    let home = plan.userns.as_ref().map(UserNamespace::aim).transpose()?;
    match sys::clone3(flags as u64, cgroup.and_then(Entrance::birthplace)) {
        Ok(Side::Parent(child)) => {
            // Its ends of the pipes are the child's alone, so that they end with it.
            drop(pipes);
            let mut container = Container::of(child, ours);
            container.comes_by(number);
            let back = home.map_or(Ok(()), |home| setns(home, CloneFlags::CLONE_NEWNET));
            back.context("come back to minirun's own network").map(|()| container)
        }
        Ok(Side::Child) => {
            drop((ours, number));
            let given = Given { parent: &theirs, reaper: reaper.as_ref(), pipes: pipes.as_ref(), cgroup, made };
            init::run(plan, given)
        }
        Err(error) => {
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM) => "minirun needs root with CAP_SYS_ADMIN",
                Some(libc::EINVAL) => {
                    "this kernel lacks one of the mount, PID, UTS, IPC, cgroup and network namespaces"
                }
                Some(libc::ENOSPC) => "raise user.max_net_namespaces and its like, see namespaces(7)",
                Some(libc::ENOSYS) => "minirun needs Linux 5.12 or later",
                _ => "see clone3(2)",
            };
            Err(error).context("make the container's namespaces").remedy(remedy)
        }
    }
}
