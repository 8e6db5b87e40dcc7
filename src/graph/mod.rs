//! `minirun graph`: the machine's network as a picture.
//!
//! [`gather`] asks the kernel and makes the model ([`model`]), [`select`] reduces it to what was named, [`scene`] says what
//! stands where, and `draw/` writes that down as text, SVG, dot or mermaid. All but the first is pure. Called by
//! `commands/graph.rs`. Nothing here changes anything in the kernel or on disk.

pub mod draw;
pub mod escape;
pub mod gather;
pub mod model;
pub mod names;
pub mod namespaces;
pub mod pair;
pub mod scene;
pub mod select;
pub mod watch;
