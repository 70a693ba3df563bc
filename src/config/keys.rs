//! Every key: its path, its form, its range and its field, said once for TOML, environment, URL and code.

use super::input::{Input, OUT_OF_RANGE, quoted};
use super::{Attempts, BusUrl, Config, GroupProtocol, Sasl, Storage, ThenConfig, Workers, duration, names};
use crate::error::{ConfigError, Origin};
use crate::policy::Jitter;
use crate::pool::Idle;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A value that may not be in a `Config`.
struct Wrong {
    value: String,
    problem: String,
}

impl Wrong {
    fn out_of_range(value: impl Display) -> Self {
        Self { value: value.to_string(), problem: OUT_OF_RANGE.to_owned() }
    }
}

/// How a key is read and checked.
enum Form {
    Url,
    Whole { range: RangeInclusive<usize>, field: fn(&mut Config) -> &mut usize },
    Time { range: RangeInclusive<Duration>, field: fn(&mut Config) -> &mut Duration },
    Flag { field: fn(&mut Config) -> &mut bool },
    Text { takes: &'static str, field: fn(&mut Config) -> &mut String },
    Own { takes: &'static str, read: fn(&mut Config, Input<'_>) -> Result<(), String>, check: Check },
}

type Check = fn(&Config) -> Result<(), Wrong>;

/// One key of the configuration.
pub(super) struct Key {
    /// Dotted.
    pub(super) path: &'static str,
    form: Form,
}

impl Key {
    /// What the key takes, for errors and for the table of keys.
    pub(super) fn takes(&self) -> String {
        match &self.form {
            Form::Url => "a bus URL".to_owned(),
            Form::Whole { range, .. } => format!("{} to {}", range.start(), range.end()),
            Form::Time { range, .. } => {
                format!("{} to {}", duration::format(*range.start()), duration::format(*range.end()))
            }
            Form::Flag { .. } => "true or false".to_owned(),
            Form::Text { takes, .. } | Form::Own { takes, .. } => (*takes).to_owned(),
        }
    }

    /// Puts a value into its field and checks it there.
    ///
    /// # Errors
    /// [`ConfigError`] if the value has not the form, or not the range, of the key.
    pub(super) fn set(
        &self,
        config: &mut Config,
        input: Input<'_>,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        let read = match &self.form {
            Form::Url => input.text().map(|text| text.clone_into(&mut config.url)),
            Form::Whole { field, .. } => input.whole().map(|n| *field(config) = n),
            Form::Time { field, .. } => input.duration().map(|time| *field(config) = time),
            Form::Flag { field } => input.flag().map(|flag| *field(config) = flag),
            Form::Text { field, .. } => input.text().map(|text| text.clone_into(field(config))),
            Form::Own { read, .. } => read(config, input),
        };
        // A property may be a secret.
        let shown = || if self.path == "kafka.properties" { "***".to_owned() } else { input.shown() };
        read.map_err(|problem| self.refuse(Wrong { value: shown(), problem }, origin))?;
        self.check(config, origin)
    }

    /// Whether what is in the field is in its range. It takes `&mut` for the sake of one accessor per field.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not.
    pub(super) fn check(&self, config: &mut Config, origin: &Origin) -> Result<(), ConfigError> {
        let checked = match &self.form {
            Form::Url => {
                let parsed = BusUrl::parse(&config.url).map(drop);
                return parsed.map_err(|error| ConfigError::Url { origin: origin.clone(), error });
            }
            Form::Whole { range, field } => {
                let value = *field(config);
                if range.contains(&value) { Ok(()) } else { Err(Wrong::out_of_range(value)) }
            }
            Form::Time { range, field } => check_time(range, *field(config)),
            Form::Flag { .. } | Form::Text { .. } => Ok(()),
            Form::Own { check, .. } => check(config),
        };
        checked.map_err(|wrong| self.refuse(wrong, origin))
    }

    fn refuse(&self, wrong: Wrong, origin: &Origin) -> ConfigError {
        ConfigError::Value {
            key: self.path,
            value: wrong.value,
            origin: origin.clone(),
            problem: wrong.problem,
            expected: self.takes(),
        }
    }
}

fn check_time(range: &RangeInclusive<Duration>, value: Duration) -> Result<(), Wrong> {
    if range.contains(&value) { Ok(()) } else { Err(Wrong::out_of_range(quoted(&duration::format(value)))) }
}

const fn whole(
    path: &'static str,
    range: RangeInclusive<usize>,
    field: fn(&mut Config) -> &mut usize,
) -> Key {
    Key { path, form: Form::Whole { range, field } }
}

const fn time(
    path: &'static str,
    range: RangeInclusive<Duration>,
    field: fn(&mut Config) -> &mut Duration,
) -> Key {
    Key { path, form: Form::Time { range, field } }
}

const fn flag(path: &'static str, field: fn(&mut Config) -> &mut bool) -> Key {
    Key { path, form: Form::Flag { field } }
}

const fn text(path: &'static str, takes: &'static str, field: fn(&mut Config) -> &mut String) -> Key {
    Key { path, form: Form::Text { takes, field } }
}

const fn own(
    path: &'static str,
    takes: &'static str,
    read: fn(&mut Config, Input<'_>) -> Result<(), String>,
    check: Check,
) -> Key {
    Key { path, form: Form::Own { takes, read, check } }
}

const RECORDS: usize = 1 << 20;
/// What Kafka can say in a length, rounded down.
const RECORD_BYTES: usize = 1 << 30;
/// 64 GiB, where the machine can address that.
const BYTES: usize = if usize::BITS >= 64 { RECORD_BYTES.saturating_mul(64) } else { RECORD_BYTES };
/// More workers than the pool has buckets would have nothing to do.
const WORKERS: usize = 1024;
const ATTEMPTS: u32 = 1_000_000;
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const CONNECT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The tables that keys are in.
pub(super) static SECTIONS: &[&str] =
    &["publisher", "subscription", "subscription.retry", "subscription.then", "memory", "kafka", "nats"];

/// All keys, in the order in which they are read: `then.kind` before what belongs to one kind.
pub(super) static KEYS: &[Key] = &[
    Key { path: "url", form: Form::Url },
    whole("publisher.records", 1..=RECORDS, |c| &mut c.publisher.records),
    whole("publisher.bytes", 1..=BYTES, |c| &mut c.publisher.bytes),
    whole("publisher.max_record_bytes", 1..=RECORD_BYTES, |c| &mut c.publisher.max_record_bytes),
    own(
        "subscription.workers",
        "\"auto\" or 0 to 1024",
        |c, v| {
            c.subscription.workers = match v.text() {
                Ok("auto") => Workers::Auto,
                _ => Workers::Count(v.whole()?),
            };
            Ok(())
        },
        |c| match c.subscription.workers {
            Workers::Count(n) if n > WORKERS => Err(Wrong::out_of_range(n)),
            _ => Ok(()),
        },
    ),
    whole("subscription.in_flight_records", 1..=RECORDS, |c| &mut c.subscription.in_flight_records),
    whole("subscription.in_flight_bytes", 1..=BYTES, |c| &mut c.subscription.in_flight_bytes),
    whole("subscription.watermark_distance", 1..=1 << 24, |c| &mut c.subscription.watermark_distance),
    whole("subscription.max_record_bytes", 1..=RECORD_BYTES, |c| &mut c.subscription.max_record_bytes),
    time("subscription.drain_timeout", Duration::ZERO..=HOUR, |c| &mut c.subscription.drain_timeout),
    own(
        "subscription.commit_interval",
        "\"auto\" or 1ms to 1h",
        |c, v| {
            c.subscription.commit_interval = match v.text()? {
                "auto" => None,
                _ => Some(v.duration()?),
            };
            Ok(())
        },
        |c| c.subscription.commit_interval.map_or(Ok(()), |interval| check_time(&(MILLI..=HOUR), interval)),
    ),
    time("subscription.hung_after", MILLI..=DAY, |c| &mut c.subscription.hung_after),
    own(
        "subscription.handler_deadline",
        "\"none\" or 1ms to 24h",
        |c, v| {
            c.subscription.handler_deadline = match v.text()? {
                "none" => None,
                _ => Some(v.duration()?),
            };
            Ok(())
        },
        |c| c.subscription.handler_deadline.map_or(Ok(()), |deadline| check_time(&(MILLI..=DAY), deadline)),
    ),
    own(
        "subscription.idle",
        "\"park\", \"adaptive\" or \"spin:\" and 1us to 1s",
        |c, v| {
            c.subscription.idle = match v.text()? {
                "park" => Idle::Park,
                "adaptive" => Idle::Adaptive,
                other => match other.strip_prefix("spin:") {
                    Some(time) => Idle::Spin(duration::parse(time)?),
                    None => return Err("is not known".to_owned()),
                },
            };
            Ok(())
        },
        |c| match c.subscription.idle {
            Idle::Spin(time) if !(Duration::from_micros(1)..=Duration::from_secs(1)).contains(&time) => {
                Err(Wrong::out_of_range(quoted(&super::idle(c.subscription.idle))))
            }
            _ => Ok(()),
        },
    ),
    own(
        "subscription.retry.attempts",
        "\"forever\" or 1 to 1000000",
        |c, v| {
            c.subscription.retry.attempts = match v.text() {
                Ok("forever") => Attempts::Forever,
                _ => Attempts::Limited(u32::try_from(v.whole()?).map_err(|_| OUT_OF_RANGE)?),
            };
            Ok(())
        },
        |c| match c.subscription.retry.attempts {
            Attempts::Limited(n) if !(1..=ATTEMPTS).contains(&n) => Err(Wrong::out_of_range(n)),
            _ => Ok(()),
        },
    ),
    time("subscription.retry.initial", MILLI..=DAY, |c| &mut c.subscription.retry.initial),
    time("subscription.retry.max", MILLI..=DAY, |c| &mut c.subscription.retry.max),
    own(
        "subscription.retry.factor",
        "1 to 100",
        |c, v| {
            c.subscription.retry.factor = v.number()?;
            Ok(())
        },
        |c| {
            let factor = c.subscription.retry.factor;
            if (1.0..=100.0).contains(&factor) { Ok(()) } else { Err(Wrong::out_of_range(factor)) }
        },
    ),
    own(
        "subscription.retry.jitter",
        "\"full\" or \"none\"",
        |c, v| {
            c.subscription.retry.jitter = match v.text()? {
                "full" => Jitter::Full,
                "none" => Jitter::None,
                _ => return Err("is not known".to_owned()),
            };
            Ok(())
        },
        |_| Ok(()),
    ),
    own(
        "subscription.then.kind",
        "\"dead_letter\", \"hold\", \"discard\", \"halt\" or \"redeliver\"",
        |c, v| {
            let then = &mut c.subscription.then;
            // A kind that a lower layer set already keeps what belongs to it; another kind drops it.
            *then = match (v.text()?, &then) {
                ("dead_letter", ThenConfig::DeadLetter { .. })
                | ("redeliver", ThenConfig::Redeliver { .. }) => return Ok(()),
                // Empty and zero are refused by the checks of `then.topic` and `then.delay` if nothing sets them.
                ("dead_letter", _) => ThenConfig::DeadLetter { topic: String::new() },
                ("redeliver", _) => ThenConfig::Redeliver { delay: Duration::ZERO },
                ("hold", _) => ThenConfig::Hold,
                ("discard", _) => ThenConfig::Discard,
                ("halt", _) => ThenConfig::Halt,
                _ => return Err("is not known".to_owned()),
            };
            Ok(())
        },
        |_| Ok(()),
    ),
    own(
        "subscription.then.topic",
        "a topic",
        |c, v| match &mut c.subscription.then {
            ThenConfig::DeadLetter { topic } => {
                v.text()?.clone_into(topic);
                Ok(())
            }
            _ => Err("belongs to `kind = \"dead_letter\"` only".to_owned()),
        },
        |c| match &c.subscription.then {
            ThenConfig::DeadLetter { topic } if topic.is_empty() => Err(Wrong {
                value: quoted(topic),
                problem: "is needed by `kind = \"dead_letter\"`".to_owned(),
            }),
            ThenConfig::DeadLetter { topic } => check_topic(topic),
            _ => Ok(()),
        },
    ),
    own(
        "subscription.then.delay",
        "1ms to 24h",
        |c, v| match &mut c.subscription.then {
            ThenConfig::Redeliver { delay } => {
                *delay = v.duration()?;
                Ok(())
            }
            _ => Err("belongs to `kind = \"redeliver\"` only".to_owned()),
        },
        |c| match &c.subscription.then {
            ThenConfig::Redeliver { delay: Duration::ZERO } => {
                Err(Wrong { value: quoted("0s"), problem: "is needed by `kind = \"redeliver\"`".to_owned() })
            }
            ThenConfig::Redeliver { delay } => check_time(&(MILLI..=DAY), *delay),
            _ => Ok(()),
        },
    ),
    whole("memory.partitions", 1..=1024, |c| &mut c.memory.partitions),
    whole("memory.retention_records", 1..=1 << 30, |c| &mut c.memory.retention_records),
    whole("memory.retention_bytes", 1..=BYTES, |c| &mut c.memory.retention_bytes),
    flag("memory.create_topics", |c| &mut c.memory.create_topics),
    own(
        "memory.topics",
        "a list of topics, each once",
        |c, v| {
            c.memory.topics = v.list()?;
            Ok(())
        },
        |c| {
            let mut seen = std::collections::HashSet::new();
            for topic in &c.memory.topics {
                check_topic(topic)?;
                if !seen.insert(topic) {
                    return Err(Wrong {
                        value: quoted(topic),
                        problem: "stands twice in the list".to_owned(),
                    });
                }
            }
            Ok(())
        },
    ),
    time("kafka.connect_timeout", CONNECT, |c| &mut c.kafka.connect_timeout),
    own(
        "kafka.group_protocol",
        "\"cooperative-sticky\", \"range\" or \"consumer\"",
        |c, v| {
            c.kafka.group_protocol = v.choice(&[
                ("cooperative-sticky", GroupProtocol::CooperativeSticky),
                ("range", GroupProtocol::Range),
                ("consumer", GroupProtocol::Consumer),
            ])?;
            Ok(())
        },
        |_| Ok(()),
    ),
    flag("kafka.tls", |c| &mut c.kafka.tls),
    text("kafka.tls_ca", "the path of a PEM file, or nothing", |c| &mut c.kafka.tls_ca),
    own(
        "kafka.sasl",
        "\"plain\", \"scram-sha-256\" or \"scram-sha-512\"",
        |c, v| {
            c.kafka.sasl = v.choice(&[
                ("plain", Sasl::Plain),
                ("scram-sha-256", Sasl::ScramSha256),
                ("scram-sha-512", Sasl::ScramSha512),
            ])?;
            Ok(())
        },
        |_| Ok(()),
    ),
    flag("kafka.create_topics", |c| &mut c.kafka.create_topics),
    whole("kafka.partitions", 1..=10_000, |c| &mut c.kafka.partitions),
    whole("kafka.replicas", 0..=100, |c| &mut c.kafka.replicas),
    own(
        "kafka.properties",
        "names and values of librdkafka's properties",
        |c, v| {
            c.kafka.properties.0 = v.pairs()?;
            Ok(())
        },
        |_| Ok(()),
    ),
    time("nats.connect_timeout", CONNECT, |c| &mut c.nats.connect_timeout),
    flag("nats.tls", |c| &mut c.nats.tls),
    text("nats.tls_ca", "the path of a PEM file, or nothing", |c| &mut c.nats.tls_ca),
    text("nats.credentials", "the path of a credentials file, or nothing", |c| &mut c.nats.credentials),
    own(
        "nats.stream",
        "a stream, or nothing",
        |c, v| {
            v.text()?.clone_into(&mut c.nats.stream);
            Ok(())
        },
        |c| match &c.nats.stream {
            stream if stream.is_empty() => Ok(()),
            stream => names::stream(stream)
                .map_err(|error| Wrong { value: quoted(stream), problem: format!("is refused: {error}") }),
        },
    ),
    flag("nats.create_topics", |c| &mut c.nats.create_topics),
    own(
        "nats.storage",
        "\"file\" or \"memory\"",
        |c, v| {
            c.nats.storage = v.choice(&[("file", Storage::File), ("memory", Storage::Memory)])?;
            Ok(())
        },
        |_| Ok(()),
    ),
    whole("nats.replicas", 1..=5, |c| &mut c.nats.replicas),
    time("nats.ack_wait", SECOND..=HOUR, |c| &mut c.nats.ack_wait),
    flag("nats.double_ack", |c| &mut c.nats.double_ack),
    time("nats.takeover_after", SECOND..=HOUR, |c| &mut c.nats.takeover_after),
];

fn check_topic(topic: &str) -> Result<(), Wrong> {
    names::topic(topic)
        .map_err(|error| Wrong { value: quoted(topic), problem: format!("is refused: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_keys_says_what_each_key_takes() {
        let documented: Vec<(&str, &str)> = include_str!("keys.md")
            .lines()
            .skip(2)
            .map(|row| {
                let cells: Vec<&str> = row.split('|').map(str::trim).collect();
                (cells[1].trim_matches('`'), cells[3])
            })
            .collect();
        let known: Vec<(&str, String)> = KEYS.iter().map(|key| (key.path, key.takes())).collect();
        assert_eq!(documented, known.iter().map(|(path, takes)| (*path, takes.as_str())).collect::<Vec<_>>());
    }

    #[test]
    fn the_sections_are_those_of_the_keys() {
        let mut sections: Vec<&str> =
            KEYS.iter().filter_map(|key| Some(key.path.rsplit_once('.')?.0)).collect();
        sections.sort_unstable();
        sections.dedup();
        let mut known = SECTIONS.to_vec();
        known.sort_unstable();
        assert_eq!(known, sections);
    }
}
