//! How a [`Config`] is made: layer over layer, every key known, every value checked.

use super::input::Input;
use super::keys::{KEYS, Key, SECTIONS};
use super::suggest::distance;
use super::{BusUrl, Config, Scheme, duration};
use crate::error::{ConfigError, Origin, shown};
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

/// What every environment variable of keylane starts with.
const PREFIX: &str = "KEYLANE_";

impl Config {
    /// The defaults with what a TOML document sets.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no TOML, an unknown key, or a value that its key does not take.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::load(Some(text), [])
    }

    /// The defaults with what environment variables set. Variables that do not start with `KEYLANE_` are nobody's
    /// business; of two pairs of one name the later counts.
    ///
    /// # Errors
    /// [`ConfigError`] for an unknown key, or a value that its key does not take.
    ///
    /// ```
    /// let variables = [("KEYLANE_MEMORY__TOPICS", "orders,payments"), ("HOME", "/root")];
    /// let config = keylane::Config::from_env(variables.map(|(k, v)| (k.to_owned(), v.to_owned())))?;
    /// assert_eq!(config.memory.topics, ["orders", "payments"]);
    /// # Ok::<(), keylane::ConfigError>(())
    /// ```
    pub fn from_env(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Self::load(None, variables)
    }

    /// The same as [`from_env`](Self::from_env), with the variables of this process.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env), and [`ConfigError::NotUtf8`].
    pub fn from_process_env() -> Result<Self, ConfigError> {
        let mut variables = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            // Others may hold what they like.
            if name.starts_with(PREFIX) {
                match value.into_string() {
                    Ok(value) => variables.push((name, value)),
                    Err(_) => return Err(ConfigError::NotUtf8 { variable: shown(name.as_bytes()) }),
                }
            }
        }
        Self::from_env(variables)
    }

    /// The defaults, over them a TOML document, over both the environment variables that start with `KEYLANE_`.
    ///
    /// # Errors
    /// [`ConfigError`] for what is no TOML, an unknown key, or a value that its key does not take.
    pub fn load(
        toml: Option<&str>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(text) = toml {
            config.set_toml(&text.parse().map_err(|error| syntax_error(text, &error))?)?;
        }
        config.set_variables(variables)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value, the URL with its options included, and that no limit is below what it has to let through.
    ///
    /// # Errors
    /// [`ConfigError`] with the key, its value, and what it takes.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.clone().resolve().map(drop)
    }

    /// What connecting works with: the URL taken apart, and the configuration with the options of a `memory:` URL.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub(crate) fn resolve(mut self) -> Result<(BusUrl, Self), ConfigError> {
        let url =
            BusUrl::parse(&self.url).map_err(|error| ConfigError::Url { origin: Origin::Code, error })?;
        if url.scheme() == Scheme::Memory {
            for (name, value) in url.options() {
                let key = KEYS.iter().find(|key| key.path.strip_prefix("memory.") == Some(name));
                let key = key.expect("the options of `memory:` are the keys of `[memory]`");
                key.set(&mut self, Input::Text(value), &Origin::Url)?;
            }
        }
        if let Some(stream) = url.option("stream") {
            stream.clone_into(&mut self.nats.stream);
        }
        for key in KEYS {
            key.check(&mut self, &Origin::Code)?;
        }
        self.check_limits(url.scheme())?;
        Ok((url, self))
    }

    /// A limit that is smaller than one of the things it limits would let that wait for ever.
    fn check_limits(&self, scheme: Scheme) -> Result<(), ConfigError> {
        let (publisher, subscription, memory) = (&self.publisher, &self.subscription, &self.memory);
        let longest_published = ("publisher.max_record_bytes", publisher.max_record_bytes);
        let longest_handled = ("subscription.max_record_bytes", subscription.max_record_bytes);
        for (key, limit, (of, longest)) in [
            ("publisher.bytes", publisher.bytes, longest_published),
            ("subscription.in_flight_bytes", subscription.in_flight_bytes, longest_handled),
            ("memory.retention_bytes", memory.retention_bytes, longest_published),
        ] {
            let is_read = scheme == Scheme::Memory || !key.starts_with("memory.");
            if is_read && limit < longest {
                return Err(below(key, limit.to_string(), of, &longest.to_string()));
            }
        }
        let retry = &subscription.retry;
        if retry.max < retry.initial {
            let shown = |time| format!("\"{}\"", duration::format(time));
            let (key, of) = ("subscription.retry.max", "subscription.retry.initial");
            return Err(below(key, shown(retry.max), of, &shown(retry.initial)));
        }
        Ok(())
    }

    fn set_toml(&mut self, table: &Table) -> Result<(), ConfigError> {
        let mut leaves = Vec::new();
        collect_leaves("", table, &mut leaves)?;
        if let Some((path, _)) = leaves.iter().find(|(path, _)| key_at(path).is_none()) {
            let known = KEYS.iter().map(|key| key.path).chain(SECTIONS.iter().copied());
            let (key, nearest) = (shown(path.as_bytes()), nearest(path, known).to_owned());
            return Err(ConfigError::UnknownKey { key, nearest });
        }
        for key in KEYS {
            if let Some((_, value)) = leaves.iter().find(|(path, _)| path == key.path) {
                key.set(self, Input::Toml(value), &Origin::Toml)?;
            }
        }
        Ok(())
    }

    fn set_variables(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let mut set: Vec<Option<String>> = vec![None; KEYS.len()];
        for (name, value) in variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            let Some(index) = KEYS.iter().position(|key| variable_of(key.path) == name) else {
                let path = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
                let nearest = variable_of(nearest(&path, KEYS.iter().map(|key| key.path)));
                return Err(ConfigError::UnknownKey { key: shown(name.as_bytes()), nearest });
            };
            set[index] = Some(value);
        }
        for (key, value) in KEYS.iter().zip(&set) {
            if let Some(value) = value {
                key.set(self, Input::Text(value), &Origin::Environment(variable_of(key.path)))?;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(deserializer)?;
        let mut config = Self::default();
        config.set_toml(&table).and_then(|()| config.validate()).map_err(serde::de::Error::custom)?;
        Ok(config)
    }
}

fn below(key: &'static str, value: String, of: &str, least: &str) -> ConfigError {
    ConfigError::Value {
        key,
        value,
        origin: Origin::Code,
        problem: format!("is less than `{of}`"),
        expected: format!("at least {least}"),
    }
}

fn key_at(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// The known path that an unknown one means most likely: the fewest edits of the whole path, or of its last word
/// with three for the wrong section.
fn nearest(path: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    let last = |path: &str| path.rfind('.').map_or(0, |dot| dot + 1);
    let edits = |known: &&str| {
        let whole = distance(path, known);
        whole.min(distance(&path[last(path)..], &known[last(known)..]) + 3)
    };
    known.min_by_key(edits).expect("there are keys")
}

/// Every value with its dotted path. Tables below which no key is are gone into too, so that an error can name the
/// whole path.
fn collect_leaves<'t>(
    above: &str,
    table: &'t Table,
    leaves: &mut Vec<(String, &'t Value)>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        // Quoted, a key with a dot is one word and not two.
        let word = if name.contains('.') { format!("\"{name}\"") } else { name.clone() };
        let path = if above.is_empty() { word } else { format!("{above}.{word}") };
        let section = SECTIONS.iter().find(|section| **section == path);
        match (value, section) {
            (Value::Table(table), Some(_)) => collect_leaves(&path, table, leaves)?,
            (Value::Table(table), None) if !table.is_empty() && key_at(&path).is_none() => {
                collect_leaves(&path, table, leaves)?;
            }
            (_, Some(key)) => {
                return Err(ConfigError::Value {
                    key,
                    value: Input::Toml(value).shown(),
                    origin: Origin::Toml,
                    problem: "is not a table".to_owned(),
                    expected: format!("a section `[{key}]`"),
                });
            }
            _ => leaves.push((path, value)),
        }
    }
    Ok(())
}

fn syntax_error(text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ConfigError::Syntax {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: error.message().to_owned(),
    }
}
