//! `--security-opt`: everything that loosens or changes what guards the host, at one place.
//!
//! Pure: what it means for the launch is decided by `plan.rs`.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::error::refused;
use crate::sandbox::seccomp::Choice;

/// What the options of this name say together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityOptions {
    /// Which system calls are let through.
    pub seccomp: Choice,
    /// Whether executables with the set-user-ID bit or with capabilities give none.
    pub no_new_privileges: bool,
    /// Whether the files of `/proc` and `/sys` that are hidden or read-only by default are left as they are.
    pub system_paths_unconfined: bool,
}

impl Default for SecurityOptions {
    fn default() -> Self {
        Self { seccomp: Choice::default(), no_new_privileges: true, system_paths_unconfined: false }
    }
}

impl SecurityOptions {
    /// Reads the values of the option, in their order.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        let mut options = Self::default();
        texts.iter().try_for_each(|text| options.apply(text.as_ref())).map(|()| options)
    }

    /// What holds in a privileged container, which is kept from nothing, unless a filter was asked for.
    #[must_use]
    pub fn or_privileged(mut self, privileged: bool) -> Self {
        if privileged {
            self.no_new_privileges = false;
            self.system_paths_unconfined = true;
            if self.seccomp == Choice::default() {
                self.seccomp = Choice::Unconfined;
            }
        }
        self
    }

    fn apply(&mut self, text: &str) -> Result<()> {
        if self.seccomp.apply_option(text)? {
            return Ok(());
        }
        // Docker takes `:` too.
        let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => self.no_new_privileges = true,
            ("no-new-privileges", "false") => self.no_new_privileges = false,
            ("no-new-privileges", other) => bail!("set no-new-privileges to `{other}`: true or false is wanted"),
            ("systempaths", "unconfined") => self.system_paths_unconfined = true,
            _ => {
                return Err(refused(
                    format!("use security option `{text}`: it is unknown"),
                    "seccomp=FILE, seccomp=unconfined, allow=NAME, no-new-privileges=false, systempaths=unconfined",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_add_up_and_the_last_one_holds() {
        let options =
            SecurityOptions::parse(&["seccomp=unconfined", "no-new-privileges=false", "systempaths=unconfined"]);
        let wanted =
            SecurityOptions { seccomp: Choice::Unconfined, no_new_privileges: false, system_paths_unconfined: true };
        assert_eq!(options.unwrap(), wanted);
        let none: [&str; 0] = [];
        assert_eq!(SecurityOptions::parse(&none).unwrap(), SecurityOptions::default());
        assert!(SecurityOptions::parse(&["no-new-privileges:false", "no-new-privileges"]).unwrap().no_new_privileges);
        for wrong in ["", "x", "label=disable", "no-new-privileges=1", "systempaths=", "allow"] {
            assert!(SecurityOptions::parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
