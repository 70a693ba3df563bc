//! Why a consumer brings nothing, in words for an operator.

use std::fmt::Display;

/// Somebody has paused it.
pub(super) fn paused(consumer: &str, stream: &str, until: Option<&impl Display>) -> String {
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    format!(
        "an operator has paused consumer `{consumer}` of stream `{stream}`{until}; `nats consumer resume {stream} \
         {consumer}` lets it go on"
    )
}

/// Whether a subject is one that a member needs to take records from its consumer, or to acknowledge them.
pub(super) fn is_of_consumer(subject: &str, stream: &str, consumer: &str) -> bool {
    let is_request = |rest: &str| {
        let rest = rest.strip_prefix("CONSUMER.").and_then(|rest| rest.split_once('.'));
        let of = rest.and_then(|(kind, rest)| match kind {
            "MSG" => rest.strip_prefix("NEXT."),
            "INFO" | "CREATE" => Some(rest),
            _ => None,
        });
        of.is_some_and(|of| of.split_once('.') == Some((stream, consumer)))
    };
    if let Some(rest) = subject.strip_prefix("$JS.API.") {
        return is_request(rest);
    }
    let Some(rest) = subject.strip_prefix("$JS.ACK.") else { return false };
    let tokens: Vec<&str> = rest.split('.').collect();
    // A domain and an account may stand before.
    let at = if tokens.len() >= 9 { 2 } else { 0 };
    tokens.get(at..at + 2) == Some(&[stream, consumer])
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_a_member_needs_is_told_from_what_others_do() {
        for (subject, is_of) in [
            ("$JS.API.CONSUMER.MSG.NEXT.orders.billing", true),
            ("$JS.API.CONSUMER.INFO.orders.billing", true),
            ("$JS.API.CONSUMER.CREATE.orders.billing", true),
            ("$JS.API.CONSUMER.MSG.NEXT.orders.other", false),
            ("$JS.API.CONSUMER.MSG.NEXT.other.billing", false),
            ("$JS.API.CONSUMER.UNPIN.orders.billing", false),
            ("$JS.API.STREAM.INFO.orders", false),
            ("$JS.ACK.orders.billing.1.7.9.1700000000000000000.3", true),
            ("$JS.ACK._.acc.orders.billing.1.7.9.1700000000000000000.3.x", true),
            ("$JS.ACK.orders.other.1.7.9.1700000000000000000.3", false),
            ("orders.billing", false),
        ] {
            assert_eq!(is_of_consumer(subject, "orders", "billing"), is_of, "{subject}");
        }
    }

    #[test]
    fn a_pause_is_told_with_its_end_and_how_to_end_it() {
        let text = paused("billing", "orders", Some(&"tomorrow"));
        for part in ["`billing`", "`orders`", "until tomorrow", "nats consumer resume orders billing"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!paused("billing", "orders", None::<&String>).contains("until"));
    }
}
