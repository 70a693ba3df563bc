//! A value as its origin has it, read as what its key takes; an error says what the value is not.

use super::duration;
use crate::error::shown;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Value;

pub(super) const OUT_OF_RANGE: &str = "is out of range";

/// A value as its origin has it.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// TOML has types, and they are kept to.
    Toml(&'a Value),
    /// Environment and URL have only text; lists are separated by commas.
    Text(&'a str),
}

impl<'a> Input<'a> {
    pub(super) fn text(self) -> Result<&'a str, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Toml(Value::String(text)) => Ok(text),
            Self::Toml(_) => Err("is not a string".to_owned()),
        }
    }

    pub(super) fn whole(self) -> Result<usize, String> {
        match self {
            Self::Toml(Value::Integer(n)) => usize::try_from(*n).map_err(|_| OUT_OF_RANGE.to_owned()),
            Self::Text(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_err(|_| OUT_OF_RANGE.to_owned())
            }
            _ => Err("is not a whole number".to_owned()),
        }
    }

    pub(super) fn number(self) -> Result<f64, String> {
        match self {
            Self::Toml(Value::Float(x)) => Ok(*x),
            Self::Toml(Value::Integer(n)) => Ok(*n as f64),
            Self::Text(text) => text.parse().map_err(|_| "is not a number".to_owned()),
            Self::Toml(_) => Err("is not a number".to_owned()),
        }
    }

    pub(super) fn flag(self) -> Result<bool, String> {
        match self {
            Self::Toml(Value::Boolean(flag)) => Ok(*flag),
            Self::Text("true") => Ok(true),
            Self::Text("false") => Ok(false),
            _ => Err("is neither `true` nor `false`".to_owned()),
        }
    }

    pub(super) fn duration(self) -> Result<Duration, String> {
        Ok(duration::parse(self.text()?)?)
    }

    pub(super) fn list(self) -> Result<Vec<String>, String> {
        match self {
            Self::Text("") => Ok(Vec::new()),
            Self::Text(text) => Ok(text.split(',').map(str::to_owned).collect()),
            Self::Toml(Value::Array(items)) => {
                items.iter().map(|item| Ok(Input::Toml(item).text()?.to_owned())).collect()
            }
            Self::Toml(_) => Err("is not a list".to_owned()),
        }
    }

    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Result<T, String> {
        let text = self.text()?;
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| "is not known".to_owned())
    }

    /// Names and values; what may be a secret is in no error.
    pub(super) fn pairs(self) -> Result<BTreeMap<String, String>, String> {
        const FORM: &str = "is not a list of `name=value`";
        match self {
            Self::Text("") => Ok(BTreeMap::new()),
            Self::Text(text) => {
                let pair =
                    |pair: &str| Some(pair.split_once('=')?).map(|(n, v)| (n.to_owned(), v.to_owned()));
                text.split(',').map(pair).collect::<Option<_>>().ok_or_else(|| FORM.to_owned())
            }
            Self::Toml(Value::Table(table)) => {
                let mut pairs = BTreeMap::new();
                collect_pairs("", table, &mut pairs)?;
                Ok(pairs)
            }
            Self::Toml(_) => Err("is not a table".to_owned()),
        }
    }

    /// The value as an error shows it.
    pub(super) fn shown(self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Toml(Value::String(text)) => quoted(text),
            Self::Toml(Value::Integer(n)) => n.to_string(),
            Self::Toml(Value::Float(x)) => x.to_string(),
            Self::Toml(Value::Boolean(flag)) => flag.to_string(),
            Self::Toml(Value::Datetime(_)) => "a date or time".to_owned(),
            Self::Toml(Value::Array(_)) => "a list".to_owned(),
            Self::Toml(Value::Table(_)) => "a table".to_owned(),
        }
    }
}

/// A name with dots may be quoted or not: it means the same property.
fn collect_pairs(
    above: &str,
    table: &toml::Table,
    pairs: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for (name, value) in table {
        let name = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let text = match value {
            Value::Table(below) => {
                collect_pairs(&name, below, pairs)?;
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            _ => {
                return Err(format!(
                    "has at `{name}` neither a string nor a whole number, `true` or `false`"
                ));
            }
        };
        if pairs.insert(name.clone(), text).is_some() {
            return Err(format!("has `{name}` twice"));
        }
    }
    Ok(())
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text.as_bytes()))
}
