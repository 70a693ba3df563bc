//! Configuration and bus URLs: what is taken, what is refused and in which words, and that no secret is printed.

use keylane::Jitter;
use keylane::config::{
    Attempts, BusUrl, Config, Credentials, GroupProtocol, Host, Sasl, Scheme, Storage, ThenConfig, Workers,
};
use keylane::pool::Idle;
use keylane::{ConfigError, ConnectError, Origin};
use proptest::prelude::*;
use serde::Deserialize as _;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::{Table, Value};

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn variable(path: &str) -> String {
    format!("KEYLANE_{}", path.replace('.', "__").to_uppercase())
}

/// Every value of a configuration with its dotted path, as `Serialize` writes it.
fn leaves(config: &Config) -> BTreeMap<String, Value> {
    fn collect(above: &str, table: Table, leaves: &mut BTreeMap<String, Value>) {
        for (name, value) in table {
            match value {
                // A key whose value is a table.
                value if name == "properties" => drop(leaves.insert(format!("{above}{name}"), value)),
                Value::Table(table) => collect(&format!("{above}{name}."), table, leaves),
                value => drop(leaves.insert(format!("{above}{name}"), value)),
            }
        }
    }
    let mut all = BTreeMap::new();
    collect("", Table::try_from(config).unwrap(), &mut all);
    all
}

/// The rows of the documented table: key, default, what it takes, meaning.
fn documented() -> Vec<[&'static str; 4]> {
    let rows = include_str!("../src/config/keys.md").lines().skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [key, default, takes, meaning] = cells[..] else { panic!("not four cells: {row}") };
        [key.trim_matches('`'), default, takes, meaning]
    })
    .collect()
}

/// Of every key, a value that is not its default, as TOML; and what has to be set with it.
const OTHER_VALUES: &[(&str, &str, &str)] = &[
    ("url", "'kafka://localhost:9092'", ""),
    ("publisher.records", "7", ""),
    ("publisher.bytes", "2000000", ""),
    ("publisher.max_record_bytes", "1000", ""),
    ("subscription.workers", "0", ""),
    ("subscription.in_flight_records", "7", ""),
    ("subscription.in_flight_bytes", "2000000", ""),
    ("subscription.watermark_distance", "7", ""),
    ("subscription.max_record_bytes", "1000", ""),
    ("subscription.drain_timeout", "'0s'", ""),
    ("subscription.commit_interval", "'5m'", ""),
    ("subscription.hung_after", "'1h'", ""),
    ("subscription.handler_deadline", "'250ms'", ""),
    ("subscription.idle", "'spin:50us'", ""),
    ("subscription.retry.attempts", "5", ""),
    ("subscription.retry.initial", "'1s'", ""),
    ("subscription.retry.max", "'5m'", ""),
    ("subscription.retry.factor", "1.5", ""),
    ("subscription.retry.jitter", "'none'", ""),
    ("subscription.then.kind", "'discard'", ""),
    ("subscription.then.topic", "'orders.dead'", "subscription.then.kind = 'dead_letter'"),
    ("subscription.then.delay", "'9s'", "subscription.then.kind = 'redeliver'"),
    ("memory.partitions", "9", ""),
    ("memory.retention_records", "9", ""),
    ("memory.retention_bytes", "2000000", ""),
    ("memory.create_topics", "true", ""),
    ("memory.topics", "['orders', 'payments']", ""),
    ("kafka.connect_timeout", "'3s'", ""),
    ("kafka.group_protocol", "'consumer'", ""),
    ("kafka.tls", "true", ""),
    ("kafka.tls_ca", "'ca.pem'", ""),
    ("kafka.sasl", "'scram-sha-512'", ""),
    ("kafka.create_topics", "true", ""),
    ("kafka.partitions", "9", ""),
    ("kafka.replicas", "3", ""),
    // Written with their names and without their values: see below.
    ("kafka.properties", "{ 'linger.ms' = '***' }", ""),
    ("nats.connect_timeout", "'3s'", ""),
    ("nats.tls", "true", ""),
    ("nats.tls_ca", "'ca.pem'", ""),
    ("nats.credentials", "'user.creds'", ""),
    ("nats.stream", "'SHOP'", ""),
    ("nats.create_topics", "true", ""),
    ("nats.storage", "'memory'", ""),
    ("nats.replicas", "3", ""),
    ("nats.ack_wait", "'9s'", ""),
    ("nats.double_ack", "true", ""),
    ("nats.takeover_after", "'9s'", ""),
];

#[test]
fn the_documented_keys_and_defaults_are_those_of_the_struct() {
    let mut actual = leaves(&Config::default());
    for [key, default, _, meaning] in documented() {
        assert!(meaning.ends_with('.'), "{key} has no meaning");
        let Some(value) = actual.remove(key) else {
            // These two exist with their kind only.
            assert!(matches!(key, "subscription.then.topic" | "subscription.then.delay"), "{key}");
            continue;
        };
        let default: Table = format!("it = {}", default.trim_matches('`')).parse().unwrap();
        assert_eq!(value, default["it"], "{key}");
    }
    assert!(actual.is_empty(), "not documented: {actual:?}");
}

#[test]
fn every_key_sets_its_own_value_and_no_other_from_toml_and_environment_alike() {
    let tried: Vec<&str> = OTHER_VALUES.iter().map(|(key, ..)| *key).collect();
    assert_eq!(tried, documented().iter().map(|[key, ..]| *key).collect::<Vec<_>>());

    for (key, value, with) in OTHER_VALUES {
        let from_toml = Config::from_toml(&format!("{with}\n{key} = {value}")).unwrap();
        let mut before = leaves(&Config::default());
        let after = leaves(&from_toml);
        let wanted: Table = format!("it = {value}").parse().unwrap();
        assert_eq!(after[*key], wanted["it"], "{key}");
        assert_ne!(before.get(*key), Some(&wanted["it"]), "{key}: not another value");
        before.insert((*key).to_owned(), wanted["it"].clone());
        if !with.is_empty() {
            before.insert("subscription.then.kind".to_owned(), after["subscription.then.kind"].clone());
        }
        assert_eq!(after, before, "{key} set something else");

        let text = match &wanted["it"] {
            Value::String(text) => text.clone(),
            Value::Array(_) => "orders,payments".to_owned(),
            Value::Table(_) => "linger.ms=***".to_owned(),
            Value::Integer(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            other => other.as_bool().unwrap().to_string(),
        };
        let from_env = Config::load(Some(with), [(variable(key), text)]).unwrap();
        assert_eq!(from_env, from_toml, "{key}");
    }
}

#[test]
fn each_word_means_its_variant() {
    let read = |toml: &str| Config::from_toml(toml).unwrap_or_else(|error| panic!("{toml}: {error}"));
    let protocols = [
        ("cooperative-sticky", GroupProtocol::CooperativeSticky),
        ("range", GroupProtocol::Range),
        ("consumer", GroupProtocol::Consumer),
    ];
    for (word, protocol) in protocols {
        assert_eq!(read(&format!("kafka.group_protocol = '{word}'")).kafka.group_protocol, protocol);
    }
    let mechanisms =
        [("plain", Sasl::Plain), ("scram-sha-256", Sasl::ScramSha256), ("scram-sha-512", Sasl::ScramSha512)];
    for (word, sasl) in mechanisms {
        assert_eq!(read(&format!("kafka.sasl = '{word}'")).kafka.sasl, sasl);
    }
    for (word, storage) in [("file", Storage::File), ("memory", Storage::Memory)] {
        assert_eq!(read(&format!("nats.storage = '{word}'")).nats.storage, storage);
    }
    for (word, jitter) in [("full", Jitter::Full), ("none", Jitter::None)] {
        assert_eq!(read(&format!("subscription.retry.jitter = '{word}'")).subscription.retry.jitter, jitter);
    }
    for (value, attempts) in [("'forever'", Attempts::Forever), ("3", Attempts::Limited(3))] {
        let toml = format!("subscription.retry.attempts = {value}");
        assert_eq!(read(&toml).subscription.retry.attempts, attempts);
    }
    for (value, workers) in [("'auto'", Workers::Auto), ("4", Workers::Count(4))] {
        assert_eq!(read(&format!("subscription.workers = {value}")).subscription.workers, workers);
    }
}

#[test]
fn the_document_that_the_docs_show_is_read() {
    let docs = include_str!("../src/config/mod.rs").split("//! ```toml\n").nth(1).expect("there is one");
    let lines = docs.lines().take_while(|line| *line != "//! ```");
    let shown: Vec<&str> = lines.map(|line| line.trim_start_matches("//!")).collect();
    let config = Config::from_toml(&shown.join("\n")).unwrap();
    assert_eq!(config.subscription.retry.attempts, Attempts::Limited(5));
    assert_eq!(config.publisher.records, 4096);
}

#[test]
fn properties_of_a_client_are_kept_and_never_shown() {
    let config = Config::from_toml("kafka.properties = { 'ssl.key.password' = 'hunter2' }").unwrap();
    assert_eq!(config.kafka.properties["ssl.key.password"], "hunter2");
    assert_eq!(format!("{:?}", config.kafka.properties), r#"{"ssl.key.password": ***}"#);
}

#[test]
fn an_error_tells_where_its_value_came_from() {
    let origin = |config: Result<Config, ConfigError>| match config {
        Err(ConfigError::Value { origin, .. }) => origin,
        other => panic!("{other:?}"),
    };
    let mut set = Config::default();
    set.publisher.records = 0;
    assert_eq!(origin(set.validate().map(|()| set)), Origin::Code);
    assert_eq!(origin(Config::from_toml("publisher.records = 0")), Origin::Toml);
    assert_eq!(origin(Config::from_toml("url = 'memory:?partitions=0'")), Origin::Url);
    let variables = env(&[("KEYLANE_PUBLISHER__RECORDS", "0")]);
    let name = "KEYLANE_PUBLISHER__RECORDS".to_owned();
    assert_eq!(origin(Config::from_env(variables)), Origin::Environment(name));
}

#[test]
fn what_is_serialized_is_read_back() {
    for toml in [
        "",
        "subscription.then = { kind = 'dead_letter', topic = 'd' }\nsubscription.workers = 3",
        "subscription.then = { kind = 'redeliver', delay = '2s' }\nsubscription.idle = 'spin:7us'",
        "subscription.handler_deadline = '1s'\nsubscription.retry.attempts = 3\nmemory.topics = ['a']",
    ] {
        let config = Config::from_toml(toml).unwrap();
        assert_eq!(Config::deserialize(Table::try_from(&config).unwrap()), Ok(config), "{toml}");
    }
}

#[test]
fn a_programs_own_configuration_can_hold_it_as_a_section() {
    #[derive(Debug, serde::Deserialize)]
    struct Program {
        bus: Config,
    }
    let program: Program = toml::from_str("[bus.subscription]\nworkers = 3").unwrap();
    assert_eq!(program.bus.subscription.workers, Workers::Count(3));
    let refused = toml::from_str::<Program>("[bus.subscription]\nwrokers = 3").unwrap_err();
    assert_eq!(
        refused.message(),
        "unknown key `subscription.wrokers`; the nearest known key is `subscription.workers`"
    );
}

#[test]
fn environment_goes_over_toml_and_toml_over_defaults() {
    let toml = "[subscription]\nhung_after = '1s'\nworkers = 2\nidle = 'adaptive'\n[memory]\npartitions = 8";
    let variables = env(&[
        ("KEYLANE_SUBSCRIPTION__WORKERS", "auto"),
        ("KEYLANE_MEMORY__TOPICS", ""),
        ("PATH", "/bin"),
        ("KEYLANE", "not ours"),
        ("keylane_url", "not ours"),
    ]);
    let config = Config::load(Some(toml), variables).unwrap();
    let mut wanted = Config::default();
    wanted.subscription.hung_after = Duration::from_secs(1);
    wanted.subscription.idle = Idle::Adaptive;
    wanted.memory.partitions = 8;
    assert_eq!(config, wanted);
    assert_eq!(Config::load(None, []), Ok(Config::default()));
}

#[test]
fn another_kind_drops_what_belonged_to_the_kind_below_it() {
    let toml = "[subscription.then]\ntopic = 'dead'\nkind = 'dead_letter'";
    let then = |variables| Config::load(Some(toml), env(variables)).map(|config| config.subscription.then);
    let dead_letter = |topic: &str| ThenConfig::DeadLetter { topic: topic.to_owned() };
    assert_eq!(then(&[]), Ok(dead_letter("dead")));
    assert_eq!(then(&[("KEYLANE_SUBSCRIPTION__THEN__KIND", "hold")]), Ok(ThenConfig::Hold));
    assert_eq!(then(&[("KEYLANE_SUBSCRIPTION__THEN__KIND", "dead_letter")]), Ok(dead_letter("dead")));
    assert_eq!(then(&[("KEYLANE_SUBSCRIPTION__THEN__TOPIC", "other")]), Ok(dead_letter("other")));
    assert_eq!(
        then(&[
            ("KEYLANE_SUBSCRIPTION__THEN__KIND", "redeliver"),
            ("KEYLANE_SUBSCRIPTION__THEN__DELAY", "5s")
        ]),
        Ok(ThenConfig::Redeliver { delay: Duration::from_secs(5) })
    );
}

#[test]
fn toml_that_is_refused_says_which_key_and_why() {
    const KINDS: &str = "\"dead_letter\", \"hold\", \"discard\", \"halt\" or \"redeliver\"";
    let unknown =
        |key: &str, nearest: &str| format!("unknown key `{key}`; the nearest known key is `{nearest}`");
    for (toml, text) in [
        // A slip at every level, a wrong section, and a key that is spelled as a section.
        ("ulr = 'memory:'", unknown("ulr", "url")),
        ("workers = 2", unknown("workers", "subscription.workers")),
        ("[publisher]\nrecord = 2", unknown("publisher.record", "publisher.records")),
        ("[publsher]\nrecords = 2", unknown("publsher.records", "publisher.records")),
        ("[publsher]", unknown("publsher", "publisher")),
        ("[subscription]\ninitial = '1s'", unknown("subscription.initial", "subscription.retry.initial")),
        ("subscription.in_flight.recrods = 2", unknown("subscription.in_flight.recrods", "subscription.in_flight_records")),
        ("[subscription.retry]\njiter = 'full'", unknown("subscription.retry.jiter", "subscription.retry.jitter")),
        ("[subscription.then]\ntopics = 'd'", unknown("subscription.then.topics", "subscription.then.topic")),
        ("[memory]\npartition = 2", unknown("memory.partition", "memory.partitions")),
        ("[url]\nscheme = 'memory'", "`url` = a table in TOML is not a string; expected a bus URL".to_owned()),
        ("'subscription.workers' = 2", unknown("\\\"subscription.workers\\\"", "subscription.workers")),
        // Forms.
        ("url = 5", "`url` = 5 in TOML is not a string; expected a bus URL".to_owned()),
        ("subscription = 5", "`subscription` = 5 in TOML is not a table; expected a section `[subscription]`".to_owned()),
        ("subscription.retry = 'no'", "`subscription.retry` = \"no\" in TOML is not a table; expected a section `[subscription.retry]`".to_owned()),
        ("subscription.hung_after = 10", "`subscription.hung_after` = 10 in TOML is not a string; expected 1ms to 24h".to_owned()),
        ("subscription.hung_after = '10'", "`subscription.hung_after` = \"10\" in TOML has no unit; expected 1ms to 24h".to_owned()),
        ("subscription.hung_after = '1.5s'", "`subscription.hung_after` = \"1.5s\" in TOML has a unit that is not known; expected 1ms to 24h".to_owned()),
        ("subscription.hung_after = 12:00:00", "`subscription.hung_after` = a date or time in TOML is not a string; expected 1ms to 24h".to_owned()),
        ("publisher.records = '7'", "`publisher.records` = \"7\" in TOML is not a whole number; expected 1 to 1048576".to_owned()),
        ("publisher.records = 7.5", "`publisher.records` = 7.5 in TOML is not a whole number; expected 1 to 1048576".to_owned()),
        ("subscription.workers = 'many'", "`subscription.workers` = \"many\" in TOML is not a whole number; expected \"auto\" or 0 to 1024".to_owned()),
        ("subscription.idle = 'doze'", "`subscription.idle` = \"doze\" in TOML is not known; expected \"park\", \"adaptive\" or \"spin:\" and 1us to 1s".to_owned()),
        ("subscription.retry.factor = 'two'", "`subscription.retry.factor` = \"two\" in TOML is not a number; expected 1 to 100".to_owned()),
        ("subscription.retry.jitter = 'some'", "`subscription.retry.jitter` = \"some\" in TOML is not known; expected \"full\" or \"none\"".to_owned()),
        ("subscription.then.kind = 'drop'", format!("`subscription.then.kind` = \"drop\" in TOML is not known; expected {KINDS}")),
        ("subscription.then.topic = 'd'", "`subscription.then.topic` = \"d\" in TOML belongs to `kind = \"dead_letter\"` only; expected a topic".to_owned()),
        ("subscription.then.delay = '1s'", "`subscription.then.delay` = \"1s\" in TOML belongs to `kind = \"redeliver\"` only; expected 1ms to 24h".to_owned()),
        ("memory.create_topics = 'yes'", "`memory.create_topics` = \"yes\" in TOML is neither `true` nor `false`; expected true or false".to_owned()),
        ("memory.topics = 'orders'", "`memory.topics` = \"orders\" in TOML is not a list; expected a list of topics, each once".to_owned()),
        ("memory.topics = ['a', 5]", "`memory.topics` = a list in TOML is not a string; expected a list of topics, each once".to_owned()),
        // Ranges.
        ("publisher.records = 0", "`publisher.records` = 0 in TOML is out of range; expected 1 to 1048576".to_owned()),
        ("publisher.records = -1", "`publisher.records` = -1 in TOML is out of range; expected 1 to 1048576".to_owned()),
        ("subscription.hung_after = '0s'", "`subscription.hung_after` = \"0s\" in TOML is out of range; expected 1ms to 24h".to_owned()),
        ("subscription.drain_timeout = '2h'", "`subscription.drain_timeout` = \"2h\" in TOML is out of range; expected 0s to 1h".to_owned()),
        ("subscription.workers = 1025", "`subscription.workers` = 1025 in TOML is out of range; expected \"auto\" or 0 to 1024".to_owned()),
        ("subscription.handler_deadline = '1us'", "`subscription.handler_deadline` = \"1us\" in TOML is out of range; expected \"none\" or 1ms to 24h".to_owned()),
        ("subscription.idle = 'spin:2s'", "`subscription.idle` = \"spin:2s\" in TOML is out of range; expected \"park\", \"adaptive\" or \"spin:\" and 1us to 1s".to_owned()),
        ("subscription.idle = 'spin:'", "`subscription.idle` = \"spin:\" in TOML does not start with a whole number; expected \"park\", \"adaptive\" or \"spin:\" and 1us to 1s".to_owned()),
        ("subscription.retry.attempts = 0", "`subscription.retry.attempts` = 0 in TOML is out of range; expected \"forever\" or 1 to 1000000".to_owned()),
        ("subscription.retry.attempts = 4294967297", "`subscription.retry.attempts` = 4294967297 in TOML is out of range; expected \"forever\" or 1 to 1000000".to_owned()),
        ("subscription.retry.factor = 0.5", "`subscription.retry.factor` = 0.5 in TOML is out of range; expected 1 to 100".to_owned()),
        ("subscription.retry.factor = nan", "`subscription.retry.factor` = NaN in TOML is out of range; expected 1 to 100".to_owned()),
        ("subscription.then = { kind = 'redeliver', delay = '25h' }", "`subscription.then.delay` = \"25h\" in TOML is out of range; expected 1ms to 24h".to_owned()),
        ("memory.topics = ['a', 'b', 'a']", "`memory.topics` = \"a\" in TOML stands twice in the list; expected a list of topics, each once".to_owned()),
        (
            "subscription.then = { kind = 'dead_letter', topic = 'a b' }",
            "`subscription.then.topic` = \"a b\" in TOML is refused: topic `a b` breaks a rule at byte 1: a topic is 1 to 249 bytes of `A-Za-z0-9._-`, and neither `.` nor `..`; expected a topic".to_owned(),
        ),
        // What is missing, and limits below what they have to let through.
        ("subscription.then.kind = 'dead_letter'", "`subscription.then.topic` = \"\" is needed by `kind = \"dead_letter\"`; expected a topic".to_owned()),
        ("subscription.then.kind = 'redeliver'", "`subscription.then.delay` = \"0s\" is needed by `kind = \"redeliver\"`; expected 1ms to 24h".to_owned()),
        ("publisher.bytes = 1000", "`publisher.bytes` = 1000 is less than `publisher.max_record_bytes`; expected at least 1048576".to_owned()),
        ("subscription.in_flight_bytes = 1000", "`subscription.in_flight_bytes` = 1000 is less than `subscription.max_record_bytes`; expected at least 1048576".to_owned()),
        ("memory.retention_bytes = 1000", "`memory.retention_bytes` = 1000 is less than `publisher.max_record_bytes`; expected at least 1048576".to_owned()),
        ("subscription.retry.max = '50ms'", "`subscription.retry.max` = \"50ms\" is less than `subscription.retry.initial`; expected at least \"100ms\"".to_owned()),
        // The URL, with what stands behind its `?`.
        ("url = 'amqp://localhost'", "`url` in TOML: unknown scheme `amqp`; expected `memory:`, `kafka://` or `nats://`".to_owned()),
        ("url = 'memory:?partitions=many'", "`memory.partitions` = \"many\" in the bus URL is not a whole number; expected 1 to 1024".to_owned()),
        ("url = 'memory:?create_topics=1'", "`memory.create_topics` = \"1\" in the bus URL is neither `true` nor `false`; expected true or false".to_owned()),
        // No TOML.
        ("a = 1\n  b = = 2", "not TOML at line 2, column 7: extra `=`, expected nothing".to_owned()),
        ("a = 1\na = 2", "not TOML at line 2, column 1: duplicate key".to_owned()),
    ] {
        assert_eq!(Config::from_toml(toml).expect_err(toml).to_string(), text, "{toml}");
    }
    // A memory section that nobody reads stops nobody.
    Config::from_toml("url = 'nats://h'\nmemory.retention_bytes = 1000").unwrap();
}

#[test]
fn deep_nesting_and_long_words_end_in_an_error() {
    for toml in [
        format!("{}a = 1", "a.".repeat(50_000)),
        format!("a = {}", "[".repeat(50_000)),
        format!("a = {}", "{a=".repeat(50_000)),
        format!("[{}a]", "a.".repeat(50_000)),
        format!("{} = 1", "a".repeat(100_000)),
        format!("url = 'kafka://{}'", "a,".repeat(50_000)),
    ] {
        let text = Config::from_toml(&toml).unwrap_err().to_string();
        assert!(text.len() < 1000, "{} bytes of error", text.len());
    }
}

#[test]
fn a_variable_that_is_refused_is_named() {
    for (name, value, text) in [
        (
            "KEYLANE_SUBSCRIPTION__WROKERS",
            "4",
            "unknown key `KEYLANE_SUBSCRIPTION__WROKERS`; the nearest known key is `KEYLANE_SUBSCRIPTION__WORKERS`",
        ),
        (
            "KEYLANE_SUBSCRIPTION_WORKERS",
            "4",
            "unknown key `KEYLANE_SUBSCRIPTION_WORKERS`; the nearest known key is `KEYLANE_SUBSCRIPTION__WORKERS`",
        ),
        ("KEYLANE_url", "memory:", "unknown key `KEYLANE_url`; the nearest known key is `KEYLANE_URL`"),
        ("KEYLANE_", "x", "unknown key `KEYLANE_`; the nearest known key is `KEYLANE_URL`"),
        (
            "KEYLANE_SUBSCRIPTION__WORKERS",
            "",
            "`subscription.workers` = \"\" by `KEYLANE_SUBSCRIPTION__WORKERS` is not a whole number; \
             expected \"auto\" or 0 to 1024",
        ),
        (
            "KEYLANE_PUBLISHER__RECORDS",
            "99999999999999999999",
            "`publisher.records` = \"99999999999999999999\" by `KEYLANE_PUBLISHER__RECORDS` is out of range; \
             expected 1 to 1048576",
        ),
        (
            "KEYLANE_PUBLISHER__RECORDS",
            "+5",
            "`publisher.records` = \"+5\" by `KEYLANE_PUBLISHER__RECORDS` is not a whole number; expected 1 to 1048576",
        ),
        (
            "KEYLANE_MEMORY__TOPICS",
            "a,,b",
            "`memory.topics` = \"\" by `KEYLANE_MEMORY__TOPICS` is refused: topic `` breaks a rule at byte 0: a topic \
             is 1 to 249 bytes of `A-Za-z0-9._-`, and neither `.` nor `..`; expected a list of topics, each once",
        ),
        (
            "KEYLANE_URL",
            "kafka://",
            "`url` by `KEYLANE_URL`: host `` is wrong; expected a DNS name, an IPv4 address, or an IPv6 address in \
             brackets",
        ),
    ] {
        assert_eq!(Config::from_env(env(&[(name, value)])).unwrap_err().to_string(), text, "{name}={value}");
    }
}

#[test]
fn what_code_sets_is_checked_like_what_files_set() {
    type Change = fn(&mut Config);
    let changes: [(Change, &str); 7] = [
        (|c| c.url.clear(), "`url`: `` has no scheme; expected `memory:`, `kafka://` or `nats://`"),
        (
            |c| c.subscription.in_flight_records = 1 << 21,
            "`subscription.in_flight_records` = 2097152 is out of range; expected 1 to 1048576",
        ),
        (
            |c| c.subscription.hung_after = Duration::MAX,
            "`subscription.hung_after` = \"18446744073709551615999999999ns\" is out of range; expected 1ms to 24h",
        ),
        (
            |c| c.subscription.retry.attempts = Attempts::Limited(0),
            "`subscription.retry.attempts` = 0 is out of range; expected \"forever\" or 1 to 1000000",
        ),
        (
            |c| c.subscription.retry.factor = f64::INFINITY,
            "`subscription.retry.factor` = inf is out of range; expected 1 to 100",
        ),
        (
            |c| c.subscription.idle = Idle::Spin(Duration::ZERO),
            "`subscription.idle` = \"spin:0s\" is out of range; expected \"park\", \"adaptive\" or \"spin:\" and \
             1us to 1s",
        ),
        (
            |c| c.memory.topics = vec!["..".to_owned()],
            "`memory.topics` = \"..\" is refused: topic `..` breaks a rule at byte 0: a topic is 1 to 249 bytes of \
             `A-Za-z0-9._-`, and neither `.` nor `..`; expected a list of topics, each once",
        ),
    ];
    for (change, text) in changes {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().to_string(), text);
    }
    let mut config = Config::default();
    config.subscription.retry.jitter = Jitter::None;
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn a_url_is_taken_apart() {
    let host = |name: &str, port| Host { name: name.to_owned(), port };
    let url =
        BusUrl::parse("KAFKA://ann%20b:p%40s%3As@b-1.local:19092,[2001:db8::1],10.0.0.1/?group=team%2Fa")
            .unwrap();
    assert_eq!(url.scheme(), Scheme::Kafka);
    assert_eq!(url.hosts(), [host("b-1.local", 19092), host("2001:db8::1", 9092), host("10.0.0.1", 9092)]);
    let Some(Credentials::Password { user, password }) = url.credentials() else { panic!("{url:?}") };
    assert_eq!((user.as_str(), password.expose()), ("ann b", "p@s:s"));
    assert_eq!(url.option("group"), Some("team/a"));
    assert_eq!(
        url.to_string(),
        "kafka://ann%20b:***@b-1.local:19092,[2001:db8::1]:9092,10.0.0.1:9092/?group=team%2Fa"
    );

    let url = BusUrl::parse("nats://t0ken@n1,n2:5222?stream=ORDERS").unwrap();
    let Some(Credentials::Token(token)) = url.credentials() else { panic!("{url:?}") };
    assert_eq!(token.expose(), "t0ken");
    assert_eq!(url.to_string(), "nats://***@n1:4222,n2:5222/?stream=ORDERS");

    let url = BusUrl::parse("memory:?topics=b,a&partitions=4").unwrap();
    assert_eq!(url.hosts(), []);
    assert_eq!(url.options().collect::<Vec<_>>(), [("topics", "b,a"), ("partitions", "4")]);
    assert_eq!(url.to_string(), "memory:?topics=b,a&partitions=4");
    for text in ["memory:", "memory:?", "nats://h", "nats://h/", "kafka://h/?"] {
        assert_eq!(BusUrl::parse(text).unwrap().options().len(), 0, "{text}");
    }
}

#[test]
fn a_url_that_is_refused_says_which_part_and_what_was_expected() {
    const NO_SCHEME: &str = "has no scheme; expected `memory:`, `kafka://` or `nats://`";
    const HOST: &str = "is wrong; expected a DNS name, an IPv4 address, or an IPv6 address in brackets";
    const PORT: &str = "is wrong; expected a port from 1 to 65535";
    const CREDENTIALS: &str = "credentials `***` is wrong; expected a user, and a password that is not empty, both percent-encoded UTF-8";
    const ESCAPE: &str = "credentials `***` is wrong; expected `@`, `/`, `?` and `#` in a user, a password or an option \
                          to be written `%40`, `%2F`, `%3F` and `%23`";
    const OPTION: &str = "is wrong; expected `name=value`, percent-encoded UTF-8";
    for (url, text) in [
        ("", format!("`` {NO_SCHEME}")),
        ("localhost", format!("`localhost` {NO_SCHEME}")),
        ("localhost:9092", format!("`localhost:9092` {NO_SCHEME}")),
        ("ann:hunter2@localhost:9092", format!("`***@localhost:9092` {NO_SCHEME}")),
        ("://localhost", format!("`://localhost` {NO_SCHEME}")),
        ("kafka\n://h", format!("`kafka\\n://h` {NO_SCHEME}")),
        ("amqp://ann:hunter2@h", "unknown scheme `amqp`; expected `memory:`, `kafka://` or `nats://`".to_owned()),
        ("kafak://h", "unknown scheme `kafak`; expected `memory:`, `kafka://` or `nats://`".to_owned()),
        ("memory://", "address `//` is wrong; expected nothing or `?option=value` behind `memory:`".to_owned()),
        ("memory:ann:hunter2@h", "address `***@h` is wrong; expected nothing or `?option=value` behind `memory:`".to_owned()),
        ("kafka:h:9092", "address `h:9092` is wrong; expected `//host` or `//host:port` behind the scheme".to_owned()),
        ("nats:/ann:hunter2@h", "address `***@h` is wrong; expected `//host` or `//host:port` behind the scheme".to_owned()),
        ("kafka://", format!("host `` {HOST}")),
        ("kafka://a,,b", format!("host `` {HOST}")),
        ("kafka://a, b", format!("host ` b` {HOST}")),
        ("kafka://:9092", format!("host `` {HOST}")),
        ("kafka://h\u{f6}st", format!("host `h\u{f6}st` {HOST}")),
        ("kafka://[::1", format!("host `[::1` {HOST}")),
        ("kafka://[::g]:9092", format!("host `[::g]:9092` {HOST}")),
        ("kafka://[::1]9092", format!("host `[::1]9092` {HOST}")),
        ("kafka://::1", format!("host `` {HOST}")),
        ("kafka://a:0", format!("port `a:0` {PORT}")),
        ("kafka://a:65536", format!("port `a:65536` {PORT}")),
        ("kafka://a:", format!("port `a:***` {PORT}")),
        ("kafka://a:+92", format!("port `a:***` {PORT}")),
        // The `@host` was forgotten: what stands at the port is a password.
        ("nats://ann:hunter2", format!("port `ann:***` {PORT}")),
        ("nats://ann:hunter2/?stream=S", format!("port `ann:***` {PORT}")),
        ("kafka://ann@h", "credentials `***` is wrong; expected `user:password@`".to_owned()),
        ("kafka://@h", "credentials `***` is wrong; expected `user:password@`".to_owned()),
        ("nats://@h", CREDENTIALS.to_owned()),
        ("nats://ann:@h", CREDENTIALS.to_owned()),
        ("nats://:hunter2@h", CREDENTIALS.to_owned()),
        ("nats://ann:hunter%2@h", CREDENTIALS.to_owned()),
        ("nats://ann:hunter%ff@h", CREDENTIALS.to_owned()),
        ("nats://ann:hun@ter2@h", CREDENTIALS.to_owned()),
        ("nats://ann:hun/ter2@h", ESCAPE.to_owned()),
        ("nats://ann:hun?ter2@h", ESCAPE.to_owned()),
        ("nats://ann:hun#ter2@h", ESCAPE.to_owned()),
        ("nats://ann:9#ter2@h", ESCAPE.to_owned()),
        ("memory:?topics=a@b", ESCAPE.to_owned()),
        ("kafka://h/orders", "path `/orders` is wrong; expected `/` or nothing: topics are named when subscribing".to_owned()),
        ("kafka://h/?group=a#b", "fragment `b` is wrong; expected no `#`: written `%23` it is part of a value".to_owned()),
        ("kafka://h/?group", format!("option `group` {OPTION}")),
        ("kafka://h/?group=%f", format!("option `group=%f` {OPTION}")),
        ("kafka://h/?&group=a", format!("option `` {OPTION}")),
        ("kafka://h/?group=a&group=b", "option `group` is wrong; expected each option once".to_owned()),
        ("kafka://h/?gruop=a", "unknown option `gruop` of `kafka`; the nearest known option is `group`".to_owned()),
        ("nats://h/?streem=a", "unknown option `streem` of `nats`; the nearest known option is `stream`".to_owned()),
        ("memory:?partition=4", "unknown option `partition` of `memory`; the nearest known option is `partitions`".to_owned()),
        ("memory:?=4", "unknown option `` of `memory`; the nearest known option is `topics`".to_owned()),
        (
            "kafka://h/?group=",
            "option `group`: group `` breaks a rule at byte 0: a group is 1 to 255 bytes of printable ASCII without \
             spaces".to_owned(),
        ),
        (
            "nats://h/?stream=a.b",
            "option `stream`: stream `a.b` breaks a rule at byte 1: a stream is 1 to 255 bytes of printable ASCII \
             without spaces and without `.*>/\\`".to_owned(),
        ),
    ] {
        assert_eq!(BusUrl::parse(url).expect_err(url).to_string(), text, "{url}");
    }
}

#[test]
fn a_scheme_whose_backend_is_not_compiled_in_names_the_feature() {
    for (scheme, name, is_enabled) in [
        (Scheme::Memory, "memory", true),
        (Scheme::Kafka, "kafka", cfg!(feature = "kafka")),
        (Scheme::Nats, "nats", cfg!(feature = "nats")),
    ] {
        assert_eq!(scheme.name(), name);
        match scheme.require_feature() {
            Ok(()) => assert!(is_enabled, "{name}"),
            Err(error @ ConnectError::FeatureDisabled { .. }) => assert_eq!(
                error.to_string(),
                format!(
                    "cannot connect to `{name}`: feature `{name}` is not enabled in this build of keylane"
                )
            ),
            Err(other) => panic!("{other}"),
        }
    }
}

/// What the test below runs as a process of its own, because a process that has threads may not set variables.
#[test]
fn child_prints_what_its_environment_sets() {
    match Config::from_process_env() {
        Ok(config) => println!("workers: {:?}", config.subscription.workers),
        Err(error) => println!("error: {error}"),
    }
}

#[test]
fn the_environment_of_the_process_is_read() {
    use std::ffi::OsStr;
    use std::process::Command;
    let child = |name: &str, value: &OsStr| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_prints_what_its_environment_sets", "--nocapture"])
            .env(name, value)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(child("KEYLANE_SUBSCRIPTION__WORKERS", "3".as_ref()).contains("workers: Count(3)\n"));
    assert!(child("KEYLANE_SUBSCRIPTION__WORKERS", "x".as_ref()).contains("error: `subscription.workers`"));
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let bytes = OsStr::from_bytes(b"nats://ann:hunter2\xff@h");
        assert!(child("KEYLANE_URL", bytes).contains("error: the value of `KEYLANE_URL` is not UTF-8\n"));
        assert!(child("OTHER", bytes).contains("workers: Auto\n"));
    }
}

/// Words that are nowhere else, with what a password may have between them: raw, it breaks the URL in every way.
fn password() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("zq[a-z0-9]{5}[-:@/?#,%&=+ \\[\\]\"'\\\\\n\u{e9}.]?", 1..4)
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| encoded + &format!("%{byte:02x}"))
}

/// Fails if any word of the password is in the text.
fn assert_hidden(words: &[String], text: &str) -> Result<(), TestCaseError> {
    for word in words {
        prop_assert!(!text.contains(&word[..7]), "{} leaked in {text}", &word[..7]);
    }
    Ok(())
}

#[test]
fn the_check_for_hidden_secrets_sees_one_that_is_printed() {
    let words = ["zqabcde/".to_owned(), "zqfghij".to_owned()];
    let url = BusUrl::parse("nats://zqabcde%2Fzqfghij@h").unwrap();
    let Some(Credentials::Token(token)) = url.credentials() else { panic!("{url:?}") };
    assert!(assert_hidden(&words, &format!("{token:?}")).is_ok());
    assert!(assert_hidden(&words, &format!("{:?}", token.expose())).is_err());
}

proptest! {
    #[test]
    fn no_error_and_no_debug_or_display_holds_a_password_or_token(words in password(), encoded: bool) {
        let raw = words.concat();
        let password = if encoded { percent_encoded(&raw) } else { raw.clone() };
        // With a colon it would be a user and a password, and a user is no secret.
        let token = password.replace(':', "");
        // Encoded, a leak may show the text as it stood.
        let mut hidden = words.clone();
        if encoded {
            hidden.extend(words.iter().map(|word| percent_encoded(&word[..7])[..7].to_owned()));
        }
        for url in [
            format!("nats://ann:{password}@host:4222/?stream=S"),
            format!("nats://{token}@host"),
            format!("kafka://ann:{password}@a,b:1/?group=g"),
            format!("kafka://ann:{password}@a,b:1/?gruop=g"),
            format!("kafka://ann:{password}@a:port"),
            format!("kafka://ann:{password}@[::g]"),
            format!("kafka://ann:{password}@a/path"),
            format!("kafka://ann:{password}@a/?group=a b#c"),
            format!("kafka://{token}@a"),
            format!("amqp://ann:{password}@a"),
            format!("nats:ann:{password}@a"),
            format!("memory:ann:{password}@a"),
            format!("memory://ann:{password}@a"),
            format!("//ann:{password}@a"),
            format!("ann:{password}@a"),
            format!("{password}@a"),
            format!("ann:{password}@"),
        ] {
            match BusUrl::parse(&url) {
                Ok(parsed) => assert_hidden(&hidden, &format!("{parsed} {parsed:?}"))?,
                Err(error) => assert_hidden(&hidden, &format!("{error} {error:?}"))?,
            }
            let mut config = Config::default();
            config.url.clone_from(&url);
            assert_hidden(&hidden, &format!("{config:?} {:?}", leaves(&config)))?;
            if let Err(error) = config.validate() {
                assert_hidden(&hidden, &format!("{error} {error:?} {:?}", ConnectError::from(error.clone())))?;
            }
            let refused = Config::from_env(env(&[("KEYLANE_URL", &url), ("KEYLANE_MEMORY__PARTITIONS", "0")]));
            let error = refused.unwrap_err();
            assert_hidden(&hidden, &format!("{error} {error:?}"))?;
            for toml in [
                format!("url = '{url}'"),
                format!("url = \"{url}\""),
                format!("url = \"{url}"),
                format!("url = {url}"),
                format!("url = '{url}' 5"),
                format!("url = '{url}'\nurl = '{url}'"),
                format!("url = '{url}'\nbus = 5"),
            ] {
                match Config::from_toml(&toml) {
                    Ok(config) => assert_hidden(&hidden, &format!("{config:?}"))?,
                    Err(error) => assert_hidden(&hidden, &format!("{error} {error:?}"))?,
                }
            }
        }
    }

    #[test]
    fn a_valid_url_is_read_back_from_its_display(
        is_kafka: bool,
        user in proptest::option::of("\\PC{1,12}"),
        password in "\\PC{1,12}",
        hosts in proptest::collection::vec(
            (prop_oneof![
                "[a-z0-9][a-z0-9.-]{0,20}",
                any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
                any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
            ], proptest::option::of(1u16..)),
            1..5,
        ),
        name in proptest::option::of("[!-~&&[^.*>/\\\\]]{1,20}"),
    ) {
        let (scheme, port, option) = if is_kafka { ("kafka", 9092, "group") } else { ("nats", 4222, "stream") };
        let credentials = user.as_ref().map_or_else(String::new, |user| {
            format!("{}:{}@", percent_encoded(user), percent_encoded(&password))
        });
        let host = |(name, port): &(String, Option<u16>)| {
            port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"))
        };
        let addresses = hosts.iter().map(host).collect::<Vec<_>>().join(",");
        let query = name.as_ref().map_or_else(String::new, |name| format!("/?{option}={}", percent_encoded(name)));

        let url = BusUrl::parse(&format!("{scheme}://{credentials}{addresses}{query}")).unwrap();
        prop_assert_eq!(url.option(option), name.as_deref());
        prop_assert_eq!(url.hosts().len(), hosts.len());
        for (parsed, (name, given)) in url.hosts().iter().zip(&hosts) {
            prop_assert_eq!(&parsed.name, name.trim_matches(['[', ']']));
            prop_assert_eq!(parsed.port, given.unwrap_or(port));
        }
        let again = BusUrl::parse(&url.to_string()).unwrap();
        prop_assert_eq!(again.to_string(), url.to_string());
        match (url.credentials(), again.credentials()) {
            (None, None) => prop_assert_eq!(&again, &url),
            (
                Some(Credentials::Password { user: a, password: secret }),
                Some(Credentials::Password { user: b, password: hidden }),
            ) => {
                prop_assert_eq!((Some(a), a), (user.as_ref(), b));
                prop_assert_eq!((secret.expose(), hidden.expose()), (password.as_str(), "***"));
                prop_assert_eq!(again.hosts(), url.hosts());
                prop_assert!(again.options().eq(url.options()));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn no_url_makes_it_panic(
        any: String,
        like in "(memory|kafka|nats|x)?:?/{0,3}[a-z0-9:@,.%?=&#/\\[\\]\u{e9}]{0,40}(group=|stream=|topics=)?[a-z%&=]{0,9}",
    ) {
        for text in [any, like] {
            let _ = BusUrl::parse(&text);
            let mut config = Config::default();
            config.url = text;
            let _ = (config.validate(), format!("{config:?}"));
        }
    }

    #[test]
    fn no_toml_and_no_environment_makes_it_panic(
        any: String,
        path in "[a-z_]{0,12}(\\.[a-z_]{0,12}){0,3}",
        key in proptest::sample::select(OTHER_VALUES),
        value in prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_map(|x| format!("{x:?}")),
            "'[ -&(-~]{0,12}'",
            "'(spin:)?[0-9]{0,22}(ns|us|ms|s|m|h|d)'",
            Just("[]".to_owned()),
            Just("['a', {}]".to_owned()),
            Just("{ a = 1 }".to_owned()),
            Just("true".to_owned()),
        ],
    ) {
        let _ = Config::from_toml(&any);
        let _ = Config::from_toml(&format!("{path} = {value}"));
        let set = Config::from_toml(&format!("{}\n{} = {value}", key.2, key.0));
        if let Err(ConfigError::Syntax { .. } | ConfigError::NotUtf8 { .. }) = &set {
            prop_assert!(false, "{set:?}");
        }
        let _ = Config::from_env([(format!("KEYLANE_{any}"), any.clone()), (variable(key.0), any)]);
        let _ = Config::from_env([(variable(&path), value.clone()), (variable(key.0), value)]);
    }
}
