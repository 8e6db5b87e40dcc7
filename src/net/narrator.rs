//! Tells on standard error what is done to the network, while it is done: `run --explain`.
//!
//! `apply.rs` hands each step over as it does it, and so do those who do the container's own part. With a narrator steps are
//! done one by one, so that each has its cost; rules are one transaction at any rate.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use super::explain::commands;
use super::reason::reason;
use super::script::{NAMESPACE, word};
use super::step::Step;
use super::stepping::{self, Stepper};
use crate::error;

/// In what form steps are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Explain {
    /// For people: the command, its cost, and the reason.
    Text,
    /// All together as a shell script, once they are done.
    Sh,
    /// A JSON object a line.
    Json,
}

/// Who tells.
#[derive(Debug)]
pub struct Narrator {
    /// How.
    pub form: Explain,
    /// The name of the container's namespace.
    pub netns: String,
    /// The container's process, once there is one.
    pub pid: Option<u32>,
    stepper: Option<Stepper>,
    coloured: bool,
    told: usize,
}

impl Narrator {
    /// One for the container of this name.
    pub fn new(form: Explain, netns: &str) -> Self {
        let coloured = error::is_coloured(std::io::stderr().is_terminal());
        Self { form, netns: netns.to_owned(), pid: None, stepper: None, coloured, told: 0 }
    }

    /// One that waits for a key before each step.
    pub fn step_by_step(netns: &str) -> Result<Self> {
        Ok(Self { stepper: Some(Stepper::new()?), ..Self::new(Explain::Text, netns) })
    }

    /// Has steps done at once by `work`, and tells of them.
    pub fn tell<T>(&mut self, steps: &[Step], work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.stepper.is_some() {
            return self.tell_and_wait(steps, work);
        }
        let begin = Instant::now();
        let done = work()?;
        let cost = begin.elapsed();
        self.tell_done(steps, Some(cost));
        Ok(done)
    }

    /// Tells of them before they are done, and of what they have changed.
    fn tell_and_wait<T>(&mut self, steps: &[Step], work: impl FnOnce() -> Result<T>) -> Result<T> {
        if steps.len() > 1 {
            error::tell(&format!("# {} changes, all at once or none:\n", steps.len()));
        }
        self.tell_done(steps, None);
        if let Some(stepper) = &self.stepper {
            stepper.wait(self.pid)?;
        }
        let before = stepping::look(self.pid);
        let begin = Instant::now();
        let done = work()?;
        let cost = begin.elapsed();
        let changed = stepping::differences(&before, &stepping::look(self.pid));
        error::tell(&format!("  done in {} µs\n{changed}\n", cost.as_micros()));
        Ok(done)
    }

    /// Tells of the namespace.
    pub fn tell_namespace(&mut self, cost: Duration) {
        self.line(&[format!("ip netns add {}", word(&self.netns))], NAMESPACE, Some(cost));
    }

    /// Tells of steps that have been done at once. Of those of the container's own process nobody knows the cost.
    pub fn tell_done(&mut self, steps: &[Step], cost: Option<Duration>) {
        for (at, step) in steps.iter().enumerate() {
            // One transaction has one cost.
            let cost = cost.filter(|_| at + 1 == steps.len());
            self.line(&commands(step, &self.netns), &reason(step), cost);
        }
    }

    fn line(&mut self, commands: &[String], reason: &str, cost: Option<Duration>) {
        self.told += 1;
        let microseconds = cost.map(|cost| cost.as_micros() as u64);
        let text = match self.form {
            Explain::Sh => return,
            Explain::Json => {
                let told =
                    json!({ "step": self.told, "commands": commands, "reason": reason, "microseconds": microseconds });
                format!("{told}\n")
            }
            Explain::Text => {
                let (dim, bold, plain) = if self.coloured { ("\x1b[2m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
                let cost = microseconds.map_or_else(String::new, |cost| format!("  {dim}# {cost} µs{plain}"));
                let commands = error::printable(&commands.join("; "));
                format!("{dim}# {reason}{plain}\n{bold}{commands}{plain}{cost}\n")
            }
        };
        error::tell(&text);
    }
}
