//! The socket `control` of a container, in its directory, which only root can reach: another command asks the container's
//! holder to change something, and hears what came of it. One question and one answer a connection.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv, send};
use serde::{Deserialize, Serialize};

use crate::attach::{connect_to, listen_in};
use crate::error::{refused, remedy_of};
use crate::net::Net;
use crate::net::publish::Port;
use crate::net::services::Services;
use crate::plan::Plan;
use crate::state::{self, Entry, Found};

/// The socket's name.
pub const NAME: &str = "control";
/// The longest question or answer.
const LONGEST: usize = 128 * 1024;
/// How long a command that has connected may take to ask, in milliseconds.
const PATIENCE: u16 = 500;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// An interface on that network.
    Connect(Net),
    /// No interface on the network of this name.
    Disconnect(String),
    /// These ports, as `-p` takes them.
    Publish(Vec<String>),
    /// These ports of the container no more, as `80` or `53/udp`.
    Withdraw(Vec<String>),
    /// Options of its port on that network, by their names in `step::PORT_OPTIONS`.
    SetPort {
        /// The network's name.
        network: String,
        /// What they become.
        options: Vec<(String, u32)>,
    },
}

/// What came of it: lines to be printed, or an error.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    lines: Vec<String>,
    error: Option<(String, Option<String>)>,
}

/// Where a holder hears.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Listens in a container's directory.
    pub fn listen(directory: &Path) -> Result<Self> {
        listen_in(directory, NAME).map(Self)
    }

    /// Readable when somebody asks.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Answers one question.
    pub fn answer(&self, act: impl FnOnce(Ask) -> Result<Vec<String>>) {
        // Whoever has gone again needs no answer.
        let Ok(socket) = accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        let socket = crate::sys::own(socket);
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(PATIENCE)) != Ok(1) {
            return;
        }
        let mut buffer = vec![0; LONGEST];
        let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).unwrap_or(0);
        let asked = serde_json::from_slice(&buffer[..size]).context("understand what another minirun asks");
        let answer = match asked.and_then(act) {
            Ok(lines) => Answer { lines, error: None },
            Err(error) => {
                let remedy = remedy_of(&error).map(str::to_owned);
                Answer { lines: vec![], error: Some((format!("{error:#}"), remedy)) }
            }
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let _ = send(socket.as_raw_fd(), &text, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    }
}

/// Asks the holder of a container; the lines that it says.
pub fn ask(found: &Found, ask: &Ask) -> Result<Vec<String>> {
    let failed = || format!("ask the holder of container `{}`", found.record.name);
    found.process("change")?;
    if !found.path.join(NAME).exists() {
        return Err(refused(
            format!(
                "change the network of container `{}`: it is not its own, but {}",
                found.record.name, found.record.network
            ),
            "change it where it is made",
        ));
    }
    let socket = connect_to(&found.path, NAME).with_context(failed)?;
    send(socket.as_raw_fd(), &serde_json::to_vec(ask)?, MsgFlags::MSG_NOSIGNAL).with_context(failed)?;
    let mut buffer = vec![0; LONGEST];
    let size = loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => {}
            size => break size.with_context(failed)?,
        }
    };
    if size == 0 {
        return Err(anyhow!("{}: it has ended", failed()));
    }
    let answer: Answer = serde_json::from_slice(&buffer[..size]).with_context(failed)?;
    match answer.error {
        None => Ok(answer.lines),
        Some((error, Some(remedy))) => Err(refused(error, remedy)),
        Some((error, None)) => Err(anyhow!(error)),
    }
}

/// Does what another command asks for; what it is to say.
pub fn act(entry: &mut Entry, plan: &mut Plan, services: &mut Services, asked: Ask) -> Result<Vec<String>> {
    let pid = plan.record.pid.context("change the container: it does not run yet")?;
    let network = &mut plan.network;
    let mut lines = Vec::new();
    match asked {
        Ask::Connect(Net::Network(wish)) => network.connect(wish, pid)?,
        Ask::Connect(other) => bail!("connect network: `{other}` is not one that can be connected"),
        Ask::Disconnect(name) => lines.extend(network.disconnect(&name, pid)?.iter().map(ToString::to_string)),
        Ask::SetPort { network: name, options } => network.set_port(&name, &options)?,
        Ask::Publish(texts) => {
            let wishes = texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>()?;
            lines.extend(network.publish_more(&wishes)?.iter().map(ToString::to_string));
        }
        Ask::Withdraw(texts) => {
            for text in texts {
                let which = |port: &Port| port.is_at(&text);
                if !network.ports.iter().any(which) {
                    let message = format!("take back port `{text}`: it is not published");
                    return Err(refused(message, format!("`minirun port {}` lists those that are", plan.record.name)));
                }
                lines.extend(network.take_back(which)?.iter().map(ToString::to_string));
            }
        }
    }
    network.write_down(&mut plan.record);
    entry.commit(&plan.record)?;
    state::touch(entry.path())?;
    plan.network.refresh(services)?;
    Ok(lines)
}
