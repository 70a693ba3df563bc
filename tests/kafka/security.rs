//! TLS and authentication against listeners that want them, with certificates made here.

use crate::cluster::{config, fresh};
use crate::support::servers::{self, Listener, Server, free_port};
use crate::support::{capture_log, eventually, logged, numbered};
use keylane::config::Sasl;
use keylane::{Config, ConnectError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

const USER: &str = "ann";
const PASSWORD: &str = "hunter2-but-longer";

/// A broker with a listener of each kind.
pub struct Secured {
    server: Server,
    plain: u16,
    pub scram: u16,
    pub tls: u16,
    tls_scram: u16,
}

fn openssl(folder: &Path, arguments: &str) {
    let made = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    let made = made.expect("openssl is missing: these tests make certificates with it");
    assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
}

/// An authority of this name, and a certificate of it for 127.0.0.1 in `NAME.pem`, key first, as Kafka reads it.
fn make_certificates(folder: &Path, name: &str) {
    openssl(
        folder,
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name}-authority -keyout {name}-ca.key -out {name}-ca.pem"
        ),
    );
    openssl(
        folder,
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -CA {name}-ca.pem -CAkey {name}-ca.key \
             -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout {name}.key -out {name}.crt"
        ),
    );
    let read = |file: String| std::fs::read_to_string(folder.join(file)).expect("just made");
    let both = read(format!("{name}.key")) + &read(format!("{name}.crt"));
    std::fs::write(folder.join(format!("{name}.pem")), both).expect("target can be written");
}

pub fn secured() -> &'static Secured {
    static SECURED: OnceLock<Secured> = OnceLock::new();
    SECURED.get_or_init(|| {
        let [plain, scram, tls, tls_scram] = [(); 4].map(|()| free_port());
        let listener = |name, protocol, port| Listener { name, protocol, port, advertised: port };
        let listeners = [
            listener("PLAIN", "SASL_PLAINTEXT", plain),
            listener("SCRAM", "SASL_PLAINTEXT", scram),
            listener("TLS", "SSL", tls),
            listener("TLSSCRAM", "SASL_SSL", tls_scram),
        ];
        let properties = |folder: &Path| {
            make_certificates(folder, "server");
            make_certificates(folder, "other");
            let keystore = folder.join("server.pem");
            let (modules, pem) = ("org.apache.kafka.common.security", keystore.display());
            let scram = format!("{modules}.scram.ScramLoginModule required;");
            format!(
                "listener.name.plain.sasl.enabled.mechanisms=PLAIN\n\
                 listener.name.plain.plain.sasl.jaas.config={modules}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n\
                 listener.name.scram.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512\n\
                 listener.name.scram.scram-sha-256.sasl.jaas.config={scram}\n\
                 listener.name.scram.scram-sha-512.sasl.jaas.config={scram}\n\
                 listener.name.tlsscram.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                 listener.name.tlsscram.scram-sha-512.sasl.jaas.config={scram}\n\
                 ssl.keystore.type=PEM\nssl.keystore.location={pem}\n"
            )
        };
        let user = |mechanism: &str| format!("{mechanism}=[name={USER},password={PASSWORD}]");
        let users = [user("SCRAM-SHA-256"), user("SCRAM-SHA-512")];
        let arguments = ["--add-scram", &users[0], "--add-scram", &users[1]];
        let server = servers::kafka_formatted(&listeners, properties, &arguments);
        Secured { server, plain, scram, tls, tls_scram }
    })
}

pub fn authority(name: &str) -> PathBuf {
    secured().server.folder().join(format!("{name}-ca.pem"))
}

fn url_with_password(port: u16, password: &str) -> String {
    format!("kafka://{USER}:{password}@127.0.0.1:{port}")
}

pub fn url_with_user(port: u16) -> String {
    url_with_password(port, PASSWORD)
}

fn with_user(port: u16, password: &str, sasl: Sasl) -> Config {
    let mut config = config(port, 1);
    config.url = url_with_password(port, password);
    config.kafka.sasl = sasl;
    config
}

fn with_tls(mut config: Config, authority: &Path) -> Config {
    config.kafka.tls = true;
    config.kafka.tls_ca = authority.display().to_string();
    config
}

/// Publishes and handles one record.
fn works(config: Config) {
    let bus = keylane::connect_with(config).wait().expect("the broker takes this client");
    let topic = fresh("secured");
    let orders = bus.subscribe_envelopes(&topic).group(&topic).handle(|_| Ok(())).unwrap();
    bus.publish(&topic, numbered("key", 1)).wait().unwrap();
    eventually("it is handled", || orders.stats().succeeded == 1).unwrap();
    assert_eq!(bus.close(Duration::from_secs(60)).wait().unacknowledged, 0);
}

/// Connects and fails, soon and with a refusal that says this much.
fn refused(config: Config, parts: &[&str]) {
    let shown = format!("{config:?}");
    let Err(error) = keylane::connect_with(config).wait() else { panic!("the broker took this client") };
    let text = error.to_string();
    assert!(matches!(error, ConnectError::Refused { .. }), "{text}");
    let lower = text.to_lowercase();
    assert!(parts.iter().all(|part| lower.contains(part)), "{text}");
    for text in [shown, text, format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "a password is shown: {text}");
    }
}

#[test]
fn a_user_with_a_password_is_taken() {
    works(with_user(secured().plain, PASSWORD, Sasl::Plain));
    works(with_user(secured().scram, PASSWORD, Sasl::ScramSha256));
    works(with_user(secured().scram, PASSWORD, Sasl::ScramSha512));
}

#[test]
fn a_wrong_password_is_a_refusal_that_shows_none() {
    capture_log();
    let wrong = format!("{PASSWORD}x");
    refused(with_user(secured().plain, &wrong, Sasl::Plain), &["authentication", "127.0.0.1"]);
    refused(with_user(secured().scram, &wrong, Sasl::ScramSha256), &["authentication"]);
    refused(with_user(secured().scram, &wrong, Sasl::ScramSha512), &["authentication"]);
    // A mechanism that this listener does not have.
    refused(with_user(secured().plain, PASSWORD, Sasl::ScramSha256), &["scram-sha-256"]);
    assert_eq!(logged(&["hunter2"]), 0, "a password is in the log");
    assert!(logged(&["the password is sent as it is"]) > 0, "nobody said that the password is sent in clear");
}

#[test]
fn a_broker_with_a_certificate_is_checked() {
    works(with_tls(config(secured().tls, 1), &authority("server")));
    works(with_tls(with_user(secured().tls_scram, PASSWORD, Sasl::ScramSha512), &authority("server")));
}

#[test]
fn a_wrong_certificate_is_a_refusal() {
    refused(with_tls(config(secured().tls, 1), &authority("other")), &["certificate"]);
    let missing = with_tls(config(secured().tls, 1), Path::new("/no/such/file.pem"));
    let Err(error) = keylane::connect_with(missing).wait() else { panic!("it has no authorities") };
    assert!(
        matches!(&error, ConnectError::Config(error) if error.to_string().contains("/no/such/file.pem")),
        "{error}"
    );
    let wrong = with_user(secured().tls_scram, &format!("{PASSWORD}x"), Sasl::ScramSha512);
    refused(with_tls(wrong, &authority("server")), &["authentication"]);
}
