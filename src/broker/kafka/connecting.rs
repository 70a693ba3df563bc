//! Waits for the first answer of a cluster, and finds out why none comes.
//!
//! A broker that starts is refused, unknown or hung up on for a while (a name comes with its container, and the port of a
//! container is open before its program listens), so that is waited out, with a line at once. What no broker ever does is
//! told at once: it speaks TLS where none is wanted, or none where it is; it is no broker; it wants a user; it sends its
//! clients to an address that nobody can reach.

use super::producer::Producer;
use super::reasons::{Cause, refusal};
use crate::config::{BusUrl, Config, Host};
use crate::foreign;
use crate::sync::thread;
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::Producer as _;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// How long one look at the connection takes.
const LOOK: Duration = Duration::from_millis(20);
/// How long one connection, and one answer on it, may take that is made to find something out.
const TRY: Duration = Duration::from_secs(1);
/// How often it is found out what listens there, while nothing answers.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Why there is no bus.
pub(super) enum Fault {
    /// Waiting does not help.
    Refused(String),
    /// The limit has passed.
    Unreachable(String),
}

/// Returns when a broker has answered, and when one of those that it names can be reached.
pub(super) fn first_answer(producer: &Producer, url: &BusUrl, config: &Config) -> Result<(), Fault> {
    let begin = Instant::now();
    let until = begin + config.kafka.connect_timeout;
    let (mut said, mut found, mut probe_at) = (Vec::new(), None, begin + PROBE_EVERY);
    loop {
        let client = producer.client().expect("it was made with one");
        client.poll(LOOK);
        // Known with the first answer.
        if client.client().fetch_cluster_id(LOOK).is_some() {
            break;
        }
        if let Some(reason) = producer.refusal() {
            return Err(Fault::Refused(refusal(&reason)));
        }
        let (mut reasons, now) = (producer.reasons(), Instant::now());
        for cause in reasons.causes() {
            if !said.contains(&cause) {
                said.push(cause);
                foreign::warn!(%url, reason = %reasons, "no broker answers yet");
                // It may be found out now.
                probe_at = now;
            }
        }
        // Another address may answer.
        if let [host] = url.hosts()
            && now >= probe_at
        {
            probe_at = now + PROBE_EVERY;
            let before =
                std::mem::replace(&mut found, probe(host, config.kafka.tls, url.credentials().is_some()));
            if let Some((cause, what)) = &found {
                // A broker that is going down hangs up on everybody.
                let is_sure =
                    *cause != Cause::WantsUser || before.is_some_and(|(before, _)| before == *cause);
                if is_sure {
                    reasons.found(*cause, format!("{host} {what}"));
                    return Err(Fault::Refused(reasons.to_string()));
                }
            }
        }
        if now >= until {
            return Err(Fault::Unreachable(reasons.to_string()));
        }
    }
    named_brokers(producer, until)
}

/// What keeps this client from what listens there, where that is found out by talking to it; and in words.
fn probe(host: &Host, is_tls: bool, has_user: bool) -> Option<(Cause, &'static str)> {
    let ask = |questions: &[&[u8]]| {
        let mut stream = connect(&host.name, host.port).ok()?;
        questions.iter().map(|question| answer(&mut stream, question)).collect::<Option<Vec<_>>>()
    };
    // The number of a question comes back behind the length of its answer.
    let is_kafka = |answer: &[u8]| answer.get(4..8) == Some(&API_VERSIONS[8..12]);
    let is_tls_record = |answer: &[u8]| matches!(answer, [0x15 | 0x16, 3, ..]);
    let plain = ask(&[API_VERSIONS]).map(|mut answers| answers.remove(0));
    match plain.as_deref() {
        Some(answer) if is_kafka(answer) && is_tls => Some((Cause::WantsNoTls, "answers without TLS")),
        Some(answer) if is_kafka(answer) && !has_user => {
            let answers = ask(&[API_VERSIONS, METADATA])?;
            answers[1].is_empty().then_some((Cause::WantsUser, "hangs up on a client without a user"))
        }
        Some(answer) if is_kafka(answer) || is_tls => None,
        Some(answer) if !answer.is_empty() && !is_tls_record(answer) => {
            Some((Cause::OtherProtocol, "answers in another protocol"))
        }
        _ if is_tls => None,
        _ => {
            let answers = ask(&[&client_hello()])?;
            is_tls_record(&answers[0]).then_some((Cause::WantsTls, "answers in TLS"))
        }
    }
}

/// The first bytes of an answer; none of them: it hung up. None: nothing has come.
fn answer(stream: &mut TcpStream, question: &[u8]) -> Option<Vec<u8>> {
    // The head of an answer of Kafka's, and more than that of a record of TLS.
    const HEAD: usize = 8;
    stream.set_read_timeout(Some(TRY)).ok()?;
    stream.set_write_timeout(Some(TRY)).ok()?;
    let mut answer = Vec::new();
    if stream.write_all(question).is_err() {
        return Some(answer);
    }
    let mut part = [0; 4096];
    while answer.len() < HEAD {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&part[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return (!answer.is_empty()).then_some(answer);
            }
            // As it hangs up with what it has not read.
            Err(_) => break,
        }
    }
    Some(answer)
}

/// The least that begins a conversation in TLS: any server of it answers with a record of its own, and be it an alert.
fn client_hello() -> Vec<u8> {
    // A record of 55 bytes with a handshake, and in it a hello of 51 bytes.
    const HEAD: [u8; 11] = [0x16, 3, 1, 0, 55, 1, 0, 0, 51, 3, 3];
    // No session, six suites of ciphers, no compression.
    const TAIL: [u8; 17] = [0, 0, 12, 0xc0, 0x2f, 0xc0, 0x30, 0xc0, 0x2b, 0, 0x9c, 0, 0x2f, 0x13, 1, 1, 0];
    let random = [0x5a; 32];
    [&HEAD[..], &random, &TAIL].concat()
}

/// The first request of Kafka's protocol in its first version: length, kind, version, number, no name.
const API_VERSIONS: &[u8] = &[0, 0, 0, 10, 0, 18, 0, 0, 0x6b, 0x6c, 0x6b, 0x6c, 0xff, 0xff];
/// A question about no topic, which a listener answers that wants no user.
const METADATA: &[u8] = &[0, 0, 0, 15, 0, 3, 0, 4, 0x6b, 0x6c, 0x6b, 0x6d, 0xff, 0xff, 0, 0, 0, 0, 0];

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TRY) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Waits until one of the brokers can be reached where the cluster says that they are: a client goes there after its first
/// answer, and nowhere else.
fn named_brokers(producer: &Producer, until: Instant) -> Result<(), Fault> {
    const TRIES: u32 = 3;
    producer.forget_reasons();
    let mut tries = 0;
    loop {
        let mut unreachable = Vec::new();
        for (id, host, port) in brokers(producer) {
            match connect(&host, port) {
                Ok(_) => return Ok(()),
                Err(error) => unreachable.push(format!("broker {id} is at `{host}:{port}`: {error}")),
            }
        }
        if let Some(client) = producer.client() {
            client.poll(LOOK);
        }
        // Who does not answer either is not one of those that did; the client has said why it can't go there.
        let reasons = producer.reasons();
        let is_lost = |cause| matches!(cause, Cause::UnknownHost | Cause::NobodyListens);
        if unreachable.is_empty() && reasons.causes().any(is_lost) {
            unreachable.push(reasons.texts());
        }
        tries += u32::from(!unreachable.is_empty());
        if tries == TRIES {
            return Err(Fault::Refused(format!(
                "a broker answers, and sends its clients where they can't reach any ({}): set `advertised.listeners` of the \
                 brokers to addresses that their clients know",
                unreachable.join("; ")
            )));
        }
        if Instant::now() >= until {
            return Err(Fault::Unreachable(reasons.to_string()));
        }
        thread::sleep(TRY / 2);
    }
}

/// Id, host and port of each broker, as the cluster says; none where nobody says it just now.
fn brokers(producer: &Producer) -> Vec<(i32, String, u16)> {
    // Whatever is asked about, all brokers are named; this one has few partitions, and asking does not make it.
    const TOPIC: &str = "__consumer_offsets";
    let Some(client) = producer.client() else { return Vec::new() };
    let Ok(metadata) = client.client().fetch_metadata(Some(TOPIC), TRY) else { return Vec::new() };
    let broker = |broker: &MetadataBroker| (broker.id(), broker.host().to_owned(), broker.port() as u16);
    metadata.brokers().iter().map(broker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_words_of_both_protocols_are_as_long_as_they_say() {
        let hello = client_hello();
        assert_eq!(hello.len(), 5 + usize::from(hello[4]));
        assert_eq!(hello.len(), 9 + usize::from(hello[8]));
        for question in [API_VERSIONS, METADATA] {
            assert_eq!(question.len(), 4 + usize::from(question[3]));
        }
    }
}
