//! Tells on standard error what is done to the network, while it is done: `run --explain`.
//!
//! `apply.rs` hands each step over as it does it, and so do those who do the container's own part. With a narrator steps are
//! done one by one, so that each has its cost; rules are one transaction at any rate.

use std::io::{IsTerminal, PipeReader, PipeWriter, Read, Write, pipe};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::json;

use super::explain::commands;
use super::reason::reason;
use super::script::{NAMESPACE, shades, word};
use super::step::Step;
use super::stepping::{self, Inside, Stepper};
use crate::error;

/// In what form steps are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Explain {
    /// For people: the command, its cost, and the reason.
    Text,
    /// All together as a shell script, once they are done.
    Sh,
    /// For programs: a JSON object for each step.
    Json,
}

/// Who tells.
#[derive(Debug)]
pub struct Narrator {
    /// How.
    pub form: Explain,
    /// The name of the container's namespace.
    pub netns: String,
    /// That namespace, once it is there.
    inside: Option<Inside>,
    stepper: Option<Stepper>,
    /// By which the container's process says what its own steps have cost.
    costs: (PipeReader, PipeWriter),
    coloured: bool,
    told: usize,
}

impl Narrator {
    /// One for the container of this name.
    pub fn new(form: Explain, netns: &str) -> Result<Self> {
        let coloured = error::is_coloured(std::io::stderr().is_terminal());
        let costs = pipe().context("make a pipe")?;
        Ok(Self { form, netns: netns.to_owned(), inside: None, stepper: None, costs, coloured, told: 0 })
    }

    /// One that waits for a key before each step.
    pub fn step_by_step(netns: &str) -> Result<Self> {
        Ok(Self { stepper: Some(Stepper::new()?), ..Self::new(Explain::Text, netns)? })
    }

    /// Whether it waits for a key before each step.
    pub fn waits(&self) -> bool {
        self.stepper.is_some()
    }

    /// The container has its process, and so its namespace.
    pub fn enter(&mut self, pid: u32) {
        self.inside = Some(Inside { whose: "the container".to_owned(), pid });
    }

    /// Tells of what `work` does in the namespace of another container, whose process is `pid`.
    pub fn elsewhere<T>(&mut self, name: &str, pid: u32, title: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        if self.form == Explain::Text {
            error::tell(&error::printable(&format!("### {title}")));
            error::tell("\n");
        }
        let other = Inside { whose: format!("container `{name}`"), pid };
        let own = (std::mem::replace(&mut self.netns, name.to_owned()), self.inside.replace(other));
        let done = work(self);
        (self.netns, self.inside) = own;
        done
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
            stepper.wait(self.inside.as_ref())?;
        }
        let before = stepping::look(self.inside.as_ref());
        let begin = Instant::now();
        let done = work()?;
        let cost = begin.elapsed();
        let changed = stepping::differences(&before, &stepping::look(self.inside.as_ref()));
        error::tell(&format!("  done in {} µs\n{changed}\n", cost.as_micros()));
        Ok(done)
    }

    /// Tells of the namespace.
    pub fn tell_namespace(&mut self, cost: Duration) {
        self.line(&[format!("ip netns add {}", word(&self.netns))], NAMESPACE, Some(cost));
    }

    /// In the container's process: does a step of its own, which is told of by the parent ([`tell_own`](Self::tell_own)).
    pub fn measure(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        work()?;
        let cost = begin.elapsed().as_micros() as u64;
        (&self.costs.1).write_all(&cost.to_ne_bytes()).context("tell the cost of a step")
    }

    /// Tells of the steps that the container's process has done by itself: all of them, or this would wait.
    pub fn tell_own(&mut self, steps: &[Step]) -> Result<()> {
        for step in steps {
            let mut cost = [0; 8];
            self.costs.0.read_exact(&mut cost).context("hear the cost of a step")?;
            self.tell_done(std::slice::from_ref(step), Some(Duration::from_micros(u64::from_ne_bytes(cost))));
        }
        Ok(())
    }

    /// Tells of steps that have been done at once.
    fn tell_done(&mut self, steps: &[Step], cost: Option<Duration>) {
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
                let [dim, bold, plain] = shades(self.coloured);
                let cost = microseconds.map_or_else(String::new, |cost| format!("  {dim}# {cost} µs{plain}"));
                let commands = error::printable(&commands.join("; "));
                format!("{dim}# {reason}{plain}\n{bold}{commands}{plain}{cost}\n")
            }
        };
        error::tell(&text);
    }
}
