//! A difference between what is to be and what is, and the small comparisons that it is made of. Used by `verify.rs`, and by the
//! commands that print it.

use super::explain::{self, colons};
use super::rtnl::Mac;
use super::seen::Link;
use super::step::Step;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The network or the container that it is of, or `host`.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What mends it, in this order; nothing where minirun cannot.
    pub steps: Vec<Step>,
    /// What somebody can do where minirun cannot.
    pub remedy: Option<String>,
}

impl Difference {
    /// Whether somebody else's link is in the place of a bridge.
    pub fn is_foreign(&self) -> bool {
        self.steps.is_empty() && self.what.starts_with("bridge ")
    }

    /// What mends it, as one types it; `pid` is the container's first process.
    pub fn mend(&self, pid: Option<i32>) -> String {
        let mut commands = self.steps.iter().flat_map(|step| commands(step, pid));
        match (commands.next(), commands.next(), &self.remedy) {
            (_, _, Some(remedy)) => remedy.clone(),
            (Some(command), None, None) => command,
            _ => "minirun network reload".to_owned(),
        }
    }
}

/// The commands that a step stands for, in the namespace of a process that runs.
pub fn commands(step: &Step, pid: Option<i32>) -> Vec<String> {
    const NAME: &str = "CONTAINER";
    let pid = pid.unwrap_or_default();
    let here = |command: String| {
        command
            .replace(&format!("ip -n {NAME} "), &format!("nsenter -t {pid} -n ip "))
            .replace(&format!("tc -n {NAME} "), &format!("nsenter -t {pid} -n tc "))
            .replace(&format!("ip netns exec {NAME} "), &format!("nsenter -t {pid} -n "))
            .replace(&format!(" netns {NAME}"), &format!(" netns {pid}"))
    };
    explain::commands(step, NAME).into_iter().map(here).collect()
}

/// What is said of a value that is another one.
pub fn is_not<T: PartialEq + std::fmt::Display + ?Sized>(what: &str, is: &T, wanted: &T) -> Option<String> {
    (is != wanted).then(|| format!("{what} {is}, not {wanted}"))
}

/// What is said of a link with another hardware address.
pub fn wrong_mac(link: &Link, mac: Mac) -> Option<String> {
    let is = link.mac.map_or_else(|| "none".to_owned(), |is| colons(&is));
    is_not("hardware address", &is, &colons(&mac))
}

/// What is said of an option with another value; one that the kernel does not tell of is let pass.
pub fn wrong_option(there: &[(&'static str, u32)], option: &str, value: u32) -> Option<String> {
    let (_, is) = there.iter().find(|(name, _)| *name == option)?;
    // The kernel counts in ticks of its own, and may be one hundredth of a second off.
    let is_time = ["ageing_time", "forward_delay", "hello_time", "max_age"].contains(&option);
    (*is != value && !(is_time && is.abs_diff(value) == 1)).then(|| format!("{option} {is}, not {value}"))
}

/// Whether a setting has a value: word by word, and numbers as numbers.
pub fn is_same(there: &str, wanted: &str) -> bool {
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => word.parse::<i64>().ok(),
    };
    let same = |(one, other): (&str, &str)| one == other || number(one).is_some() && number(one) == number(other);
    let (there, wanted): (Vec<&str>, Vec<&str>) =
        (there.split_whitespace().collect(), wanted.split_whitespace().collect());
    there.len() == wanted.len() && there.into_iter().zip(wanted).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared_as_the_kernel_reads_them() {
        assert!(is_same("0 2147483647", "0\t2147483647") && is_same("1", "01") && is_same("16", "0x10"));
        assert!(!is_same("0", "1") && !is_same("1 2", "1") && is_same("reno", "reno"));
    }
}
