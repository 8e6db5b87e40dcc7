//! What the build script made: the tables of this architecture, and the filter that most containers get.

use super::bpf::Instruction;
use super::policy::{Arch, Condition, Op::*};
use super::profile::{Row, Rule, Tables};

include!(concat!(env!("OUT_DIR"), "/filter.rs"));

/// The tables together.
pub static TABLES: Tables<'static> = Tables { arches: &ARCHES, rows: &ROWS, rules: &RULES };
