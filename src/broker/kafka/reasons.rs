//! Why no broker answers: what the client's errors say of it, one for each cause, and what to do about it.

use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::fmt;

/// What an error is about; what says most comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// What answers is no broker.
    OtherProtocol,
    WantsUser,
    WantsTls,
    WantsNoTls,
    UnknownHost,
    NobodyListens,
    Other,
}

impl Cause {
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::OtherProtocol => Some("what answers there is no Kafka broker: check host and port"),
            Self::WantsUser => Some(
                "the listener seems to want a user and a password: give them in the URL, and their mechanism as `kafka.sasl`",
            ),
            Self::WantsTls => Some("the listener seems to speak TLS: set `kafka.tls = true`"),
            Self::WantsNoTls => Some(
                "the listener seems to speak no TLS: leave `kafka.tls` out, or take the port of the one that does",
            ),
            Self::UnknownHost => Some("the name is not known on this machine: check it in the URL"),
            Self::NobodyListens => Some("nobody listens there: is the broker running, and is this its port?"),
            Self::Other => None,
        }
    }
}

/// The errors that were heard of, the last one of each cause.
#[derive(Debug, Clone, Default)]
pub(super) struct Reasons(BTreeMap<Cause, String>);

impl Reasons {
    /// Takes note of an error. That all brokers are down says nothing of why, and comes behind each that does.
    pub(super) fn heard(&mut self, code: RDKafkaErrorCode, text: &str) {
        if code != RDKafkaErrorCode::AllBrokersDown {
            self.0.insert(cause(code, text), text.to_owned());
        }
    }

    /// Takes note of what was found out otherwise.
    pub(super) fn found(&mut self, cause: Cause, text: String) {
        self.0.insert(cause, text);
    }

    /// What was said, without what to do about it.
    pub(super) fn texts(&self) -> String {
        self.0.values().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// The causes, what says most first.
    pub(super) fn causes(&self) -> impl Iterator<Item = Cause> {
        self.0.keys().copied()
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts())?;
        match self.causes().find_map(Cause::next_step) {
            Some(next_step) => write!(f, "; {next_step}"),
            None if self.0.is_empty() => f.write_str("nothing was heard from them"),
            None => Ok(()),
        }
    }
}

/// What the client said when it was refused, with what to do where that is known.
pub(super) fn refusal(text: &str) -> String {
    // Of a broker that was asked for a mechanism on a listener that has none.
    if text.contains("not valid in current SASL state") {
        return format!(
            "{text}; the listener takes no user: leave user and password out of the URL, or take the port of one that does"
        );
    }
    text.to_owned()
}

/// librdkafka has one code for most of it; what it found out is in the text.
fn cause(code: RDKafkaErrorCode, text: &str) -> Cause {
    const INVALID_SIZE: &str = "Invalid response size ";
    if code == RDKafkaErrorCode::Resolve {
        Cause::UnknownHost
    } else if let Some((_, size)) = text.split_once(INVALID_SIZE) {
        // The first four bytes, taken for a length.
        let digits = size.find(|c: char| c != '-' && !c.is_ascii_digit()).map_or(size, |end| &size[..end]);
        let bytes = digits.parse::<i32>().map_or([0; 4], i32::to_be_bytes);
        if matches!(bytes, [0x15 | 0x16, 3, ..]) { Cause::WantsTls } else { Cause::OtherProtocol }
    } else if text.contains("connecting to a SSL listener?") {
        Cause::WantsTls
    } else if text.contains("PLAINTEXT broker listener?") || text.contains("during SSL connection handshake")
    {
        Cause::WantsNoTls
    } else if text.contains("broker might require SASL") {
        Cause::WantsUser
    } else if text.contains("Connection refused") {
        Cause::NobodyListens
    } else {
        Cause::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RDKafkaErrorCode as E;

    const REFUSED: &str =
        "b:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)";

    #[test]
    fn what_the_client_says_tells_the_cause() {
        for (code, text, expected) in [
            (E::BrokerTransportFailure, REFUSED, Cause::NobodyListens),
            (
                E::Resolve,
                "b:1/bootstrap: Failed to resolve 'b:1': Name or service not known",
                Cause::UnknownHost,
            ),
            (
                E::BrokerTransportFailure,
                "b:1/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol \
                 configuration (connecting to a SSL listener?) or broker version is < 0.10",
                Cause::WantsTls,
            ),
            (
                E::BrokerTransportFailure,
                "b:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                Cause::WantsNoTls,
            ),
            (
                E::BrokerTransportFailure,
                "b:1/bootstrap: Disconnected: verify that security.protocol is correctly configured, broker might \
                 require SASL authentication",
                Cause::WantsUser,
            ),
            // "HTTP", and the head of a TLS alert.
            (
                E::BadMessage,
                "Receive failed: Invalid response size 1213486160 (0..100000000)",
                Cause::OtherProtocol,
            ),
            (
                E::BadMessage,
                "Receive failed: Invalid response size -2147 (0..100000000)",
                Cause::OtherProtocol,
            ),
            (
                E::BadMessage,
                "Receive failed: Invalid response size 352518656 (0..100000000)",
                Cause::WantsTls,
            ),
            (E::BrokerTransportFailure, "b:1/bootstrap: Disconnected", Cause::Other),
        ] {
            assert_eq!(cause(code, text), expected, "{text}");
        }
    }

    #[test]
    fn a_user_where_none_is_wanted_is_told_what_to_do() {
        let text = "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state";
        assert!(refusal(text).starts_with(text) && refusal(text).contains("takes no user"));
        assert_eq!(refusal("wrong password"), "wrong password");
    }

    #[test]
    fn the_reason_is_not_that_all_are_down_but_why() {
        let mut reasons = Reasons::default();
        assert_eq!(reasons.to_string(), "nothing was heard from them");
        reasons.heard(E::BrokerTransportFailure, REFUSED);
        reasons.heard(E::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(
            reasons.to_string(),
            format!("{REFUSED}; nobody listens there: is the broker running, and is this its port?")
        );
        reasons.heard(E::Resolve, "a:1/bootstrap: Failed to resolve 'a:1'");
        let text = reasons.to_string();
        assert!(
            text.starts_with("a:1/bootstrap: Failed")
                && text.contains(REFUSED)
                && text.ends_with("in the URL"),
            "{text}"
        );
        assert_eq!(reasons.causes().collect::<Vec<_>>(), [Cause::UnknownHost, Cause::NobodyListens]);
    }
}
