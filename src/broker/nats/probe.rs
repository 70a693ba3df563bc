//! What answers at an address where the client can't connect, whose errors say little of it.

use serde::Deserialize;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a server may take to say what it is, which it does first of all.
const SPEAKS: Duration = Duration::from_millis(500);
/// As much of it is read.
const MOST: usize = 16 << 10;
/// As much of something else is shown.
const SHOWN: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A NATS server.
    Nats { has_tls: bool },
    /// It takes connections and says nothing.
    Nothing,
    /// Something else, which began with this.
    Else(String),
    /// Nobody takes a connection.
    Nobody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    tls_required: bool,
    tls_available: bool,
}

impl Answer {
    /// What it is that begins like this.
    fn of(said: &[u8]) -> Self {
        if said.is_empty() {
            return Self::Nothing;
        }
        let info = said.strip_prefix(b"INFO ").and_then(|rest| {
            let json = rest.split(|byte| *byte == b'\r').next()?;
            serde_json::from_slice::<Info>(json).ok()
        });
        match info {
            Some(info) => Self::Nats { has_tls: info.tls_required || info.tls_available },
            None => Self::Else(said[..said.len().min(SHOWN)].escape_ascii().to_string()),
        }
    }

    /// Why no try will ever succeed; none: it may.
    pub(super) fn refusal(&self, address: &str, is_tls: bool) -> Option<String> {
        match self {
            Self::Nats { has_tls: false } if is_tls => Some(format!(
                "the server at {address} has no TLS, and `nats.tls` asks for it: set it to false, or give the server a \
                 certificate"
            )),
            Self::Else(said) => Some(format!(
                "what answers at {address} is no NATS server, it begins with `{said}`: check the port and the scheme of \
                 the URL"
            )),
            Self::Nats { .. } | Self::Nothing | Self::Nobody => None,
        }
    }

    /// What may be wrong with one that has not answered.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Nothing => {
                "; something takes connections there and says nothing, where a NATS server speaks first: it may be a port \
                 of another protocol, or a server that hangs or wants TLS before all (`handshake_first`)"
            }
            Self::Nats { .. } | Self::Else(_) | Self::Nobody => "",
        }
    }
}

/// Connects, and listens for what is said first.
pub(super) async fn ask(address: &str) -> Answer {
    let mut said = Vec::new();
    let listened = tokio::time::timeout(SPEAKS, async {
        let stream = TcpStream::connect(address).await?;
        while said.len() < MOST && !said.contains(&b'\n') {
            stream.readable().await?;
            let mut piece = [0; 4 << 10];
            match stream.try_read(&mut piece) {
                Ok(0) => break,
                Ok(n) => said.extend_from_slice(&piece[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
    .await;
    match listened {
        Ok(Err(_)) if said.is_empty() => Answer::Nobody,
        _ => Answer::of(&said),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_answers_is_known_by_what_it_says_first() {
        let nats = |has_tls| Answer::Nats { has_tls };
        for (said, answer) in [
            (&b"INFO {\"server_id\":\"x\",\"port\":4222}\r\n"[..], nats(false)),
            (b"INFO {\"tls_required\":true}\r\n", nats(true)),
            (b"INFO {\"tls_available\":true}\r\n", nats(true)),
            (b"", Answer::Nothing),
            (b"SSH-2.0-OpenSSH\r\n", Answer::Else("SSH-2.0-OpenSSH\\r\\n".to_owned())),
            (b"\x15\x03\x01", Answer::Else("\\x15\\x03\\x01".to_owned())),
        ] {
            assert_eq!(Answer::of(said), answer);
        }
    }

    #[test]
    fn only_what_never_works_is_refused() {
        let refusal = |answer: &Answer, is_tls| answer.refusal("host:1", is_tls);
        let text = refusal(&Answer::Nats { has_tls: false }, true).expect("it has none");
        assert!(text.contains("nats.tls") && text.contains("host:1"), "{text}");
        let text = refusal(&Answer::Else("SSH-2.0".to_owned()), false).expect("it is another protocol");
        assert!(text.contains("SSH-2.0") && text.contains("no NATS server"), "{text}");
        for (answer, is_tls) in [
            (Answer::Nats { has_tls: false }, false),
            (Answer::Nats { has_tls: true }, true),
            (Answer::Nothing, true),
            (Answer::Nobody, false),
        ] {
            assert_eq!(refusal(&answer, is_tls), None);
        }
    }
}
