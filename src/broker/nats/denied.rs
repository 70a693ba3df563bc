//! What the server does not permit: it says so beside what was asked, which it never answers.

use crate::sync::{Arc, Mutex};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Kinds of denials that are remembered; the oldest goes first.
const REMEMBERED: usize = 256;
/// Denials that somebody who waits for an answer may be behind.
const BEHIND: usize = 256;
/// The same is said again in the log after this long.
const SAID_AGAIN: Duration = Duration::from_secs(60);

/// One thing that the server did not let this client do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    is_publish: bool,
    subject: String,
}

impl Denial {
    /// Reads it out of an error of a server.
    pub(super) fn of(error: &str) -> Option<Self> {
        let rest = error.strip_prefix("Permissions Violation for ")?;
        let (is_publish, rest) = match rest.strip_prefix("Publish to ") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("Subscription to ")?),
        };
        let subject = rest.strip_prefix('"')?.split('"').next()?.to_owned();
        Some(Self { is_publish, subject })
    }

    /// What this client published to and may not.
    pub(super) fn published_to(&self) -> Option<&str> {
        self.is_publish.then_some(&*self.subject)
    }

    /// Whether no answer comes to what was sent to this subject.
    fn concerns(&self, subject: &str) -> bool {
        if self.is_publish { self.subject == subject } else { self.subject.starts_with("_INBOX.") }
    }

    /// The subjects to permit, so that it works for all of its kind.
    pub(super) fn permit(&self) -> String {
        let tokens: Vec<&str> = self.subject.split('.').collect();
        match &tokens[..] {
            ["$JS", "API", ..] => self.subject.clone(),
            ["$JS", "ACK", _, _, stream, consumer, ..] if tokens.len() >= 11 => {
                format!("$JS.ACK.*.*.{stream}.{consumer}.>")
            }
            ["$JS", "ACK", stream, consumer, ..] => format!("$JS.ACK.{stream}.{consumer}.>"),
            ["_INBOX", ..] => "_INBOX.>".to_owned(),
            [topic @ .., _] if !topic.is_empty() => format!("{}.*", topic.join(".")),
            _ => self.subject.clone(),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (does, permit) = (if self.is_publish { "publish" } else { "subscribe" }, self.permit());
        write!(f, "the user of this connection may not {does} to `{}`", self.subject)?;
        if permit == self.subject {
            write!(f, ": permit it")
        } else {
            write!(f, ": permit it to {does} to `{permit}`")
        }
    }
}

/// What was denied over the connection that there is.
#[derive(Debug, Clone)]
pub(super) struct Denied(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// With when it was heard last and when it was said, the oldest first.
    recent: Mutex<Vec<(Denial, Instant, Instant)>>,
    tell: broadcast::Sender<Denial>,
}

impl Denied {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { recent: Mutex::default(), tell: broadcast::Sender::new(BEHIND) }))
    }

    /// Takes note of one. True: it is worth a line.
    pub(super) fn heard(&self, denial: Denial, now: Instant) -> bool {
        let is_news = {
            let mut recent = self.0.recent.lock();
            let permit = denial.permit();
            let is_same = |other: &Denial| other.is_publish == denial.is_publish && other.permit() == permit;
            let known = recent.iter().position(|(other, ..)| is_same(other)).map(|at| recent.remove(at).2);
            let said = known.filter(|said| now.saturating_duration_since(*said) < SAID_AGAIN);
            if recent.len() >= REMEMBERED {
                recent.remove(0);
            }
            recent.push((denial.clone(), now, said.unwrap_or(now)));
            said.is_none()
        };
        // Nobody may wait for an answer just now.
        let _ = self.0.tell.send(denial);
        is_news
    }

    /// There is another connection, with which things may be otherwise.
    pub(super) fn connected(&self) {
        self.0.recent.lock().clear();
    }

    /// What is denied from now on.
    pub(super) fn listen(&self) -> broadcast::Receiver<Denial> {
        self.0.tell.subscribe()
    }

    /// Why there can't be an answer to anything: where answers come may not be listened at.
    pub(super) fn of_answers(&self) -> Option<Denial> {
        let recent = self.0.recent.lock();
        let mut all = recent.iter().map(|(denial, ..)| denial);
        all.find(|denial| !denial.is_publish && denial.concerns("")).cloned()
    }

    /// What was heard since then of those that the test takes.
    pub(super) fn since(&self, begin: Instant, is_it: impl Fn(&Denial) -> bool) -> Option<Denial> {
        let recent = self.0.recent.lock();
        let mut all = recent.iter().filter(|(_, heard, _)| *heard >= begin).map(|(denial, ..)| denial);
        all.find(|denial| is_it(denial)).cloned()
    }
}

/// Waits until it is said that this subject may not be published to, or that no answer can come.
pub(super) async fn denial_of(denials: &mut broadcast::Receiver<Denial>, subject: &str) -> Denial {
    loop {
        match denials.recv().await {
            Ok(denial) if denial.concerns(subject) => return denial,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn publish(subject: &str) -> Denial {
        Denial::of(&format!("Permissions Violation for Publish to \"{subject}\"")).expect("it is one")
    }

    #[test]
    fn a_denial_says_what_to_permit_for_all_of_its_kind() {
        for (subject, permit) in [
            ("orders.key-1", "orders.*"),
            ("orders.dead.a%2Eb", "orders.dead.*"),
            ("$JS.API.CONSUMER.MSG.NEXT.orders.billing", "$JS.API.CONSUMER.MSG.NEXT.orders.billing"),
            ("$JS.ACK.orders.billing.1.7.9.1700000000000000000.3", "$JS.ACK.orders.billing.>"),
            ("$JS.ACK._.acc.orders.billing.1.7.9.1700000000000000000.3.x", "$JS.ACK.*.*.orders.billing.>"),
        ] {
            let denial = publish(subject);
            assert_eq!(denial.permit(), permit);
            assert_eq!(denial.published_to(), Some(subject));
            assert!(
                denial.to_string().contains(permit) && denial.to_string().contains("publish"),
                "{denial}"
            );
        }
        let inbox = Denial::of("Permissions Violation for Subscription to \"_INBOX.abc.*\"").unwrap();
        assert_eq!((inbox.permit().as_str(), inbox.published_to()), ("_INBOX.>", None));
        assert!(inbox.to_string().contains("may not subscribe to `_INBOX.abc.*`"), "{inbox}");
        for other in
            ["Permissions Violation for Publish with Reply of \"x\"", "Maximum Connections Exceeded", ""]
        {
            assert_eq!(Denial::of(other), None);
        }
    }

    #[test]
    fn it_is_said_once_a_minute_for_each_kind_and_known_for_as_long_as_it_is_heard() {
        let (denied, now) = (Denied::new(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(denied.heard(publish("orders.a"), now));
        assert!(!denied.heard(publish("orders.b"), now + second), "the same kind");
        assert!(denied.heard(publish("other.a"), now + second));
        assert!(denied.heard(publish("orders.a"), now + SAID_AGAIN), "again, after a minute");
        let of = |prefix: &'static str| move |denial: &Denial| denial.subject.starts_with(prefix);
        assert!(denied.since(now + second, of("other")).is_some());
        assert!(denied.since(now + 2 * second, of("other")).is_none());
        assert!(denied.of_answers().is_none());
        let inbox = Denial::of("Permissions Violation for Subscription to \"_INBOX.abc.*\"").unwrap();
        denied.heard(inbox.clone(), now);
        assert_eq!(denied.of_answers(), Some(inbox));
        denied.connected();
        assert!(denied.of_answers().is_none() && denied.since(now, of("")).is_none());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (denied, now) = (Denied::new(), Instant::now());
        for n in 0..2 * REMEMBERED {
            denied.heard(publish(&format!("topic-{n}.a")), now);
        }
        assert_eq!(denied.0.recent.lock().len(), REMEMBERED);
    }
}
