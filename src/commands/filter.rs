//! `ps --filter KEY=VALUE`: which containers are listed. Pure functions over the JSON of a container.

use anyhow::Result;
use serde_json::Value;

use crate::error::refused;

/// What a container may be.
const STATUSES: [&str; 6] = ["created", "running", "paused", "stopping", "exited", "dead"];

/// Conditions, as docker joins them: several of one key are alternatives (but of `label`, where all must hold), and all
/// keys must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Id,
    Name,
    Label,
    Status,
    Image,
    Network,
    Exited,
}

/// The keys as they are typed.
const KEYS: [(&str, Key); 8] = [
    ("id", Key::Id),
    ("name", Key::Name),
    ("label", Key::Label),
    ("status", Key::Status),
    ("ancestor", Key::Image),
    ("image", Key::Image),
    ("network", Key::Network),
    ("exited", Key::Exited),
];

impl Filter {
    /// Reads the values of `--filter`.
    pub fn parse(words: &[impl AsRef<str>]) -> Result<Self> {
        words.iter().map(|word| Condition::parse(word.as_ref())).collect::<Result<_>>().map(Self)
    }

    /// Whether all containers match.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a container, as `ps --format json` prints it, is one of those.
    pub fn matches(&self, container: &Value) -> bool {
        self.0.iter().all(|condition| match condition.key {
            Key::Label => condition.holds(container),
            key => self.0.iter().any(|other| other.key == key && other.holds(container)),
        })
    }
}

impl Condition {
    fn parse(word: &str) -> Result<Self> {
        let refuse = |cause: String, remedy: String| Err(refused(format!("filter by `{word}`: {cause}"), remedy));
        let keys: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
        let Some((name, value)) = word.split_once('=') else {
            return refuse("it is not KEY=VALUE".into(), format!("the keys are {}", keys.join(", ")));
        };
        let Some((_, key)) = KEYS.iter().find(|(key, _)| *key == name) else {
            return refuse(format!("there is no key `{name}`"), format!("the keys are {}", keys.join(", ")));
        };
        let inner = value.strip_prefix('^').unwrap_or(value);
        let inner = inner.strip_suffix('$').unwrap_or(inner);
        match key {
            _ if value.is_empty() => refuse("the value is empty".into(), format!("use {name}=VALUE, or leave it out")),
            Key::Status if !STATUSES.contains(&value) => {
                refuse(format!("there is no status `{value}`"), format!("one is {}", STATUSES.join(", ")))
            }
            Key::Exited if value.parse::<u8>().is_err() => {
                refuse("it is not an exit code".into(), "use a number from 0 to 255".into())
            }
            // docker takes a regular expression. What would be one must not look as if nothing were found.
            Key::Id | Key::Name if inner.contains(|c: char| !c.is_ascii_alphanumeric() && !"_.-/".contains(c)) => {
                refuse(
                    "it is taken as it is and not as a pattern".into(),
                    format!("use a part of it, or {name}=^BEGINNING, {name}=END$, {name}=^WHOLE$"),
                )
            }
            key => Ok(Self { key: *key, value: value.to_owned() }),
        }
    }

    fn holds(&self, container: &Value) -> bool {
        let text = |field: &str| container[field].as_str();
        let value = self.value.as_str();
        match self.key {
            Key::Id => text("id").is_some_and(|id| part(id, value)),
            Key::Name => text("name").is_some_and(|name| part(name, value)),
            Key::Label => {
                let (key, wanted) = value.split_once('=').map_or((value, None), |(key, value)| (key, Some(value)));
                let label = container["labels"].get(key);
                label.is_some_and(|label| wanted.is_none_or(|wanted| label.as_str() == Some(wanted)))
            }
            // A container of which no status is told is listed because it lives.
            Key::Status => text("status").unwrap_or("running") == value,
            Key::Image => text("image").is_some_and(|image| untagged(image) == untagged(value)),
            Key::Network => is_or_has(&container["network"], value) || is_or_has(&container["networks"], value),
            Key::Exited => {
                let code = container["exit_code"].as_u64();
                code.is_some() && code == value.parse().ok() && text("status").is_none_or(|status| status == "exited")
            }
        }
    }
}

/// Whether `wanted` is in `text`; at its beginning after a `^`, at its end before a `$`.
fn part(text: &str, wanted: &str) -> bool {
    let begins = wanted.strip_prefix('^');
    let ends = begins.unwrap_or(wanted).strip_suffix('$');
    match (begins, ends) {
        (None, None) => text.contains(wanted),
        (Some(beginning), None) => text.starts_with(beginning),
        (None, Some(end)) => text.ends_with(end),
        (Some(_), Some(whole)) => text == whole,
    }
}

fn untagged(image: &str) -> &str {
    image.strip_suffix(":latest").unwrap_or(image)
}

fn is_or_has(networks: &Value, name: &str) -> bool {
    match networks {
        Value::String(network) => network == name,
        Value::Array(list) => list.iter().any(|network| network == name || network["name"] == name),
        Value::Object(map) => map.contains_key(name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(words: &[&str]) -> bool {
        Filter::parse(words).unwrap().matches(&json!({
            "id": "0123456789ab", "name": "web-1", "image": "nginx", "network": "front", "status": "exited", "exit_code": 3,
            "labels": {"tier": "a", "empty": ""},
        }))
    }

    #[test]
    fn each_key_has_its_rule() {
        for word in [
            "id=0123",
            "id=89ab",
            "name=web",
            "name=eb-",
            "name=^web-1$",
            "name=^web",
            "name=-1$",
            "label=tier",
            "label=tier=a",
            "label=empty=",
            "status=exited",
            "ancestor=nginx",
            "ancestor=nginx:latest",
            "image=nginx",
            "network=front",
            "exited=3",
        ] {
            assert!(matches(&[word]), "{word}");
        }
        for word in [
            "id=^89ab",
            "name=web$",
            "name=^eb",
            "name=^web$",
            "label=no",
            "label=tier=b",
            "status=running",
            "ancestor=ngin",
            "ancestor=nginx:1",
            "network=fron",
            "exited=0",
        ] {
            assert!(!matches(&[word]), "{word}");
        }
    }

    #[test]
    fn keys_are_joined_as_docker_does() {
        assert!(matches(&[]));
        assert!(matches(&["name=none", "name=web"]), "one of a key is enough");
        assert!(!matches(&["name=web", "status=running"]), "all keys must hold");
        assert!(
            !matches(&["label=tier", "label=no"]) && matches(&["label=tier", "label=empty"]),
            "all labels must hold"
        );
    }

    #[test]
    fn what_says_less_than_others_matches_less() {
        let plain = json!({"id": "a", "name": "a", "network": ["x", {"name": "y"}]});
        let matches = |word: &str| Filter::parse(&[word]).unwrap().matches(&plain);
        assert!(matches("status=running") && matches("network=x") && matches("network=y"));
        assert!(!matches("label=a") && !matches("exited=0") && !matches("image=a"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_list() {
        for (word, message) in [
            ("name", "not KEY=VALUE"),
            ("colour=red", "no key `colour`"),
            ("name=", "empty"),
            ("status=gone", "no status `gone`"),
            ("exited=x", "not an exit code"),
            ("exited=256", "not an exit code"),
            ("name=w.*b", "not as a pattern"),
        ] {
            let error = Filter::parse(&[word]).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
            assert!(crate::error::remedy_of(&error).is_some());
        }
        let error = Filter::parse(&["colour=red"]).unwrap_err();
        assert!(crate::error::remedy_of(&error).unwrap().contains("ancestor"));
    }
    proptest::proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error(word in ".*", key in "(id|name|label|status|image|network|exited)") {
            for word in [word.clone(), format!("{key}={word}")] {
                if let Ok(filter) = Filter::parse(&[word]) {
                    filter.matches(&json!({"id": "a", "name": "b", "labels": {"c": "d"}, "network": "e", "image": "f"}));
                }
            }
        }
    }
}
