//! What all clients of librdkafka share: how they are made, what their errors mean, and where their log lines go.

use super::broker_health::Kind;
use super::properties::{self, Properties};
use crate::config::Config;
use crate::error::{ConfigError, Origin, shown_path};
use crate::foreign;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaConfRes;

/// Finds properties that librdkafka does not know, and values that it does not take, before any client is made.
pub(super) fn check_properties(config: &Config) -> Result<(), ConfigError> {
    properties::check(config)?;
    let authorities = &config.kafka.tls_ca;
    // What librdkafka says of it does not name the file.
    if config.kafka.tls
        && !authorities.is_empty()
        && let Err(error) = std::fs::read(authorities)
    {
        return Err(ConfigError::Value {
            key: "kafka.tls_ca",
            value: shown_path(authorities),
            origin: Origin::Code,
            problem: format!("can't be read ({error})"),
            expected: "the path of a PEM file, or nothing".to_owned(),
        });
    }
    for (name, value) in config.kafka.properties.iter() {
        let mut alone = ClientConfig::new();
        alone.set(name, value);
        // What it says quotes the value.
        if let Err(KafkaError::ClientConfig(result, ..)) = alone.create_native_config() {
            return Err(match result {
                RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN => properties::refused(
                    name,
                    "is no property of librdkafka",
                    "one that its CONFIGURATION.md lists",
                ),
                _ => properties::refused(
                    name,
                    "has a value that librdkafka does not take",
                    "what its CONFIGURATION.md says of it",
                ),
            });
        }
    }
    Ok(())
}

/// A client's configuration out of these properties.
pub(super) fn configuration(properties: &Properties) -> ClientConfig {
    let mut configuration = ClientConfig::new();
    let mut is_debugged = false;
    for (name, value) in properties.iter() {
        is_debugged |= name == "debug";
        configuration.set(name, value);
    }
    configuration.set_log_level(if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Notice });
    configuration
}

/// Where librdkafka's log lines go. What is wrong is told by the bus itself, with its begin and its end, so that these are for
/// who looks closer.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    // A property may be for consumers alone or for producers alone, and each kind of client is given all.
    if facility == "CONFWARN" && message.contains("property and will be ignored") {
        return;
    }
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            foreign::error!(facility, message, "librdkafka");
        }
        RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning
        | RDKafkaLogLevel::Notice
        | RDKafkaLogLevel::Info => {
            foreign::info!(facility, message, "librdkafka");
        }
        RDKafkaLogLevel::Debug => foreign::debug!(facility, message, "librdkafka"),
    }
}

/// What an error that came by itself means; none: nothing that lasts.
pub(super) fn kind_of(code: RDKafkaErrorCode) -> Option<Kind> {
    use RDKafkaErrorCode as E;
    match code {
        E::NoError | E::PartitionEOF | E::PollExceeded | E::AutoOffsetReset | E::OffsetOutOfRange => None,
        E::Authentication
        | E::SaslAuthenticationFailed
        | E::UnsupportedSASLMechanism
        | E::IllegalSASLState
        | E::SSL
        | E::ClusterAuthorizationFailed => Some(Kind::Refused),
        E::GroupAuthorizationFailed
        | E::InconsistentGroupProtocol
        | E::InvalidGroupId
        | E::InvalidSessionTimeout
        | E::GroupMaxSizeReached
        | E::FencedInstanceId
        | E::UnreleasedInstanceId
        | E::UnsupportedAssignor
        | E::UnsupportedVersion
        | E::UnsupportedFeature => Some(Kind::Group),
        E::AllBrokersDown => Some(Kind::Connections),
        _ => Some(Kind::Connection),
    }
}

/// Whether the broker, or the handshake with it, refused this client: waiting does not help.
pub(super) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::Authentication
            | E::SaslAuthenticationFailed
            | E::UnsupportedSASLMechanism
            | E::IllegalSASLState
            | E::SSL
            | E::ClusterAuthorizationFailed
    )
}
