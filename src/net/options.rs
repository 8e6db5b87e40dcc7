//! The options of a network that are the bridge's, or its ports'.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::definition::Definition;
use super::driver::Driver;
use super::step::{BRIDGE_OPTIONS, PORT_OPTIONS};
use super::{macvlan, vxlan};
use crate::error::{refused, remedy_of};

/// The name of an option in `--opt`, and in [`BRIDGE_OPTIONS`] or [`PORT_OPTIONS`].
const OPTIONS: [(&str, &str, bool); 10] = [
    ("stp", "stp_state", true),
    ("ageing_time", "ageing_time", true),
    ("forward_delay", "forward_delay", true),
    ("hello_time", "hello_time", true),
    ("max_age", "max_age", true),
    ("priority", "priority", true),
    ("hairpin", "hairpin", false),
    ("path_cost", "cost", false),
    ("port_priority", "priority", false),
    ("learning", "learning", false),
];

/// What a new bridge has where nothing is said (br_device.c, br_stp.c).
pub const BRIDGE_DEFAULTS: [(&str, u32); 7] = [
    ("stp_state", 0),
    ("ageing_time", 30000),
    ("forward_delay", 1500),
    ("hello_time", 200),
    ("max_age", 2000),
    ("priority", 32768),
    ("mcast_snooping", 1),
];
/// What a new port has where nothing is said, if it is a veth: the cost follows from its speed (br_if.c).
pub const PORT_DEFAULTS: [(&str, u32); 5] =
    [("hairpin", 0), ("isolated", 0), ("cost", 2), ("priority", 32), ("learning", 1)];

/// Reads `KEY=VALUE`, an option of a network of that driver; the key as a definition has it.
pub fn option_of(driver: Driver, text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').with_context(|| format!("set option `{text}`: KEY=VALUE is wanted"))?;
    Ok((check_option(driver, key, value)?, value.to_owned()))
}

/// Reads `KEY=VALUE`, an option of one port; by its name in [`PORT_OPTIONS`].
pub fn port_option_of(text: &str) -> Result<(&'static str, u32)> {
    let (key, value) = text.split_once('=').with_context(|| format!("set option `{text}`: KEY=VALUE is wanted"))?;
    let failed = || format!("set option `{key}={value}`");
    if key == "isolated" {
        let number = number_of(value).with_context(failed)?;
        return if number <= 1 { Ok(("isolated", number)) } else { bail!("{}: on or off is wanted", failed()) };
    }
    let Some((_, kernel, _)) = OPTIONS.iter().find(|(name, _, of_bridge)| *name == key && !of_bridge) else {
        let of_ports = OPTIONS.iter().filter(|(.., of_bridge)| !of_bridge).map(|(name, ..)| *name);
        let known: Vec<&str> = of_ports.chain(["isolated"]).collect();
        let remedy = format!("known are {}; those of bridges are set by `minirun network set`", known.join(", "));
        return Err(refused(format!("{}: there is no such option of a port", failed()), remedy));
    };
    check_bridge_option(key, value)?;
    Ok((kernel, number_of(value)?))
}

/// Checks what options mean together: the kernel takes a short delay only as long as the spanning tree protocol is off.
pub fn check_together(options: &BTreeMap<String, String>) -> Result<()> {
    let number = |key: &str| options.get(key).and_then(|value| number_of(value).ok());
    if let (Some(1), Some(delay @ 0..200)) = (number("stp"), number("forward_delay")) {
        let message = format!("set option `forward_delay={delay}`: with stp=on a number from 200 to 3000 is wanted");
        return Err(refused(message, "set both, as `stp=on forward_delay=200`, or turn the protocol off"));
    }
    Ok(())
}

/// Checks an option of a network of that driver and its value. What it is called in a definition.
pub fn check_option(driver: Driver, key: &str, value: &str) -> Result<String> {
    let failed = || format!("set option `{key}={value}`");
    match driver {
        Driver::Macvlan => {
            return macvlan::check_option(key, value).map(str::to_owned).map_err(|error| told(failed(), error));
        }
        Driver::Ptp => {
            return Err(refused(
                format!("{}: driver ptp has no options", failed()),
                "--mtu, --subnet and --ipv6 are known",
            ));
        }
        Driver::Vxlan => {
            if let Some(checked) = vxlan::check_option(key, value) {
                return checked.map(|()| key.to_owned()).with_context(failed);
            }
        }
        Driver::Bridge => {}
    }
    check_bridge_option(key, value).map(|()| key.to_owned())
}

fn told(what: String, error: anyhow::Error) -> anyhow::Error {
    match remedy_of(&error).map(str::to_owned) {
        Some(remedy) => refused(format!("{what}: {error}"), remedy),
        None => error.context(what),
    }
}

fn check_bridge_option(key: &str, value: &str) -> Result<()> {
    let failed = || format!("set option `{key}={value}`");
    if key.starts_with("vlan_") {
        return Err(refused(
            format!("{}: minirun's bridges have no VLANs", failed()),
            "make a network for each instead; no kernel that minirun is tested on has vlan_filtering",
        ));
    }
    if !OPTIONS.iter().any(|(name, ..)| *name == key) {
        let known: Vec<&str> = OPTIONS.iter().map(|(name, ..)| *name).collect();
        return Err(refused(
            format!("{}: there is no such option", failed()),
            format!("known are {}", known.join(", ")),
        ));
    }
    let number = number_of(value).with_context(failed)?;
    let (least, most) = match key {
        "stp" | "hairpin" | "learning" => (0, 1),
        // What the kernel takes (br_private.h, br_stp.c), in hundredths of a second.
        "forward_delay" => (0, 3000),
        "hello_time" => (100, 1000),
        "max_age" => (600, 4000),
        "path_cost" => (1, 65535),
        "port_priority" => (0, 63),
        "priority" => (0, 65535),
        _ => (0, u32::MAX / 100),
    };
    if !(least..=most).contains(&number) {
        anyhow::bail!("{}: a number from {least} to {most} is wanted", failed());
    }
    Ok(())
}

fn number_of(value: &str) -> Result<u32> {
    match value {
        "on" | "yes" | "true" => Ok(1),
        "off" | "no" | "false" => Ok(0),
        number => number.parse().context("a number, or on or off, is wanted"),
    }
}

/// The options of a definition that are of the bridge, or of its ports.
pub fn options_of(definition: &Definition, of_bridge: bool) -> Vec<(&'static str, u32)> {
    let known = if of_bridge { &BRIDGE_OPTIONS[..] } else { &PORT_OPTIONS[..] };
    let one = |(name, kernel, bridge): &(&str, &'static str, bool)| {
        let value = definition.options.get(*name).filter(|_| *bridge == of_bridge)?;
        Some((known.iter().find(|known| *known == kernel)?, number_of(value).ok()?))
    };
    OPTIONS.iter().filter_map(one).map(|(name, value)| (*name, value)).collect()
}

/// The options of a container's port: those of its network, unless `own` says otherwise.
pub fn port_options(network: &Definition, own: &BTreeMap<String, u32>) -> Vec<(&'static str, u32)> {
    let mut options = options_of(network, false);
    options.extend(network.isolate.then_some(("isolated", 1)));
    for option in PORT_OPTIONS {
        if let Some(value) = own.get(option) {
            options.retain(|(other, _)| *other != option);
            options.push((option, *value));
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_those_of_the_kernel() {
        for good in [("stp", "on"), ("ageing_time", "30000"), ("path_cost", "7"), ("learning", "off")] {
            check_option(Driver::Bridge, good.0, good.1).unwrap();
        }
        for bad in [("stp", "2"), ("colour", "red"), ("hello_time", "5"), ("port_priority", "64"), ("max_age", "x")] {
            assert!(check_option(Driver::Bridge, bad.0, bad.1).is_err(), "{bad:?}");
        }
        for (driver, key, value) in [
            (Driver::Vxlan, "vni", "16777215"),
            (Driver::Vxlan, "stp", "on"),
            (Driver::Vxlan, "local", "fd00::1"),
            (Driver::Macvlan, "parent", "eth0.10"),
        ] {
            assert_eq!(check_option(driver, key, value).unwrap(), key);
        }
        assert_eq!(check_option(Driver::Macvlan, "macvlan_mode", "vepa").unwrap(), "mode");
        for (driver, key, value) in [
            (Driver::Bridge, "vlan_filtering", "1"),
            (Driver::Vxlan, "vni", "16777216"),
            (Driver::Vxlan, "port", "0"),
            (Driver::Vxlan, "group", "192.0.2.1"),
            (Driver::Macvlan, "mode", "source"),
            (Driver::Macvlan, "parent", "lo"),
            (Driver::Macvlan, "stp", "on"),
            (Driver::Ptp, "mode", "bridge"),
        ] {
            assert!(check_option(driver, key, value).is_err(), "{driver} {key}={value}");
        }
        let options = [("stp", "on"), ("path_cost", "7"), ("priority", "9")];
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let definition = Definition { options, ..Definition::default_network("10.214.0.1/20".parse().unwrap()) };
        assert_eq!(options_of(&definition, true), [("stp_state", 1), ("priority", 9)]);
        assert_eq!(options_of(&definition, false), [("cost", 7)]);
    }
}
