//! TLS and authentication against servers that want them, with certificates and credentials made here.

use crate::admin::configured;
use crate::support::servers::{self, Server};
use crate::support::{capture_log, eventually, logged, numbered};
use keylane::{Config, ConnectError};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

const SECRET: &str = "hunter2-but-longer";
/// As long as a step of a test may take.
const LIMIT: Duration = Duration::from_secs(60);

fn openssl(folder: &Path, arguments: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is missing: these tests make certificates and credentials with it");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), input).expect("it reads");
    let made = child.wait_with_output().expect("it ends");
    assert!(made.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&made.stderr));
    made.stdout
}

/// A folder with two authorities, and a certificate of the first for 127.0.0.1.
pub fn certificates() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nats-certificates-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("target can be written");
        for name in ["server", "other"] {
            let authority = format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name}-authority -keyout {name}-ca.key -out {name}-ca.pem"
            );
            openssl(&folder, &authority, b"");
        }
        let certificate = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -CA server-ca.pem -CAkey \
                           server-ca.key -addext subjectAltName=IP:127.0.0.1 -addext \
                           basicConstraints=critical,CA:FALSE -keyout server.key -out server.pem";
        openssl(&folder, certificate, b"");
        folder
    })
}

pub fn with_tls(name: &str) -> Server {
    let folder = certificates().display();
    configured(
        name,
        &format!("tls {{ cert_file: \"{folder}/server.pem\", key_file: \"{folder}/server.key\" }}\n"),
    )
}

/// An Ed25519 key as NATS writes it, made by openssl.
struct NatsKey {
    pem: PathBuf,
    seed: String,
    public: String,
}

/// `O`, `A` and `U` as the first letter of a public key, and `S` before them for a seed.
impl NatsKey {
    fn make(folder: &Path, name: &str, kind: u8) -> Self {
        let pem = folder.join(format!("{name}.pem"));
        openssl(folder, &format!("genpkey -algorithm ed25519 -out {}", pem.display()), b"");
        let tail = |arguments: String| {
            let der = openssl(folder, &arguments, b"");
            der[der.len() - 32..].to_vec()
        };
        let secret = tail(format!("pkey -in {} -outform DER", pem.display()));
        let public = tail(format!("pkey -in {} -pubout -outform DER", pem.display()));
        // The five bits of a letter and three bits of the next stand in a byte.
        let prefix = (kind - b'A') << 3;
        let seed_prefix = (b'S' - b'A') << 3;
        let seed: Vec<u8> =
            [seed_prefix | prefix >> 5, (prefix & 31) << 3].into_iter().chain(secret).collect();
        let public: Vec<u8> = [prefix].into_iter().chain(public).collect();
        Self { pem, seed: checked(&seed), public: checked(&public) }
    }

    /// A JWT with these claims, signed by this key.
    fn sign(&self, folder: &Path, subject: &str, nats: &str) -> String {
        let claims = format!(
            r#"{{"jti":"{subject}","iat":1700000000,"iss":"{}","sub":"{subject}","name":"test","nats":{nats}}}"#,
            self.public
        );
        let text =
            format!("{}.{}", base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#), base64(claims.as_bytes()));
        fs::write(folder.join("claims"), &text).expect("target can be written");
        let arguments = format!("pkeyutl -sign -rawin -inkey {} -in claims", self.pem.display());
        format!("{text}.{}", base64(&openssl(folder, &arguments, b"")))
    }
}

/// Base32 with a CRC-16 behind it, as keys of NATS are written.
fn checked(bytes: &[u8]) -> String {
    let crc = bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    });
    let all: Vec<u8> = bytes.iter().copied().chain(crc.to_le_bytes()).collect();
    encode(&all, 5, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
}

fn base64(bytes: &[u8]) -> String {
    encode(bytes, 6, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
}

fn encode(bytes: &[u8], bits: usize, alphabet: &[u8]) -> String {
    let all: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let digit = |chunk: &[u8]| {
        let value = chunk
            .iter()
            .chain(std::iter::repeat(&0))
            .take(bits)
            .fold(0, |value, bit| value << 1 | usize::from(*bit));
        char::from(alphabet[value])
    };
    all.chunks(bits).map(digit).collect()
}

/// A server that takes users of an operator's account, and the credentials file of one.
pub fn with_operator(name: &str) -> (Server, PathBuf) {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nats-operator-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("target can be written");
    let key = |name: &str, kind| NatsKey::make(&folder, name, kind);
    let (operator, account, system, user) =
        (key("operator", b'O'), key("account", b'A'), key("system", b'A'), key("user", b'U'));
    let operator_jwt = operator.sign(
        &folder,
        &operator.public,
        &format!(r#"{{"type":"operator","version":2,"system_account":"{}"}}"#, system.public),
    );
    let limits = r#"{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1,"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1}"#;
    let account_jwt = operator.sign(
        &folder,
        &account.public,
        &format!(r#"{{"type":"account","version":2,"limits":{limits}}}"#),
    );
    let system_jwt = operator.sign(&folder, &system.public, r#"{"type":"account","version":2,"limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1}}"#);
    let user_jwt = account.sign(
        &folder,
        &user.public,
        r#"{"type":"user","version":2,"pub":{},"sub":{},"subs":-1,"data":-1,"payload":-1}"#,
    );
    let credentials = folder.join("user.creds");
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed
    );
    fs::write(&credentials, text).expect("target can be written");
    let config = format!(
        "operator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {account_jwt}, {}: {system_jwt} }}\n",
        system.public, account.public, system.public
    );
    (configured(&format!("operator-{name}"), &config), credentials)
}

fn config(url: &str) -> Config {
    let mut config = Config::default();
    url.clone_into(&mut config.url);
    config.nats.create_topics = true;
    config.nats.connect_timeout = Duration::from_secs(30);
    config
}

/// Publishes and handles one record.
fn works(config: Config) {
    let bus = keylane::connect_with(config).wait().expect("the server takes this client");
    bus.create_topic("secured").wait().unwrap();
    let orders = bus.subscribe_envelopes("secured").group("secured").handle(|_| Ok(())).unwrap();
    bus.publish("secured", numbered("key", 1)).wait().unwrap();
    eventually("it is handled", || orders.stats().succeeded >= 1).unwrap();
    assert_eq!(bus.close(Duration::from_secs(60)).wait().unacknowledged, 0);
}

/// Connects and fails, with a refusal that says this much and no secret.
fn refused(config: Config, parts: &[&str]) {
    let shown = format!("{config:?}");
    let Err(error) = keylane::connect_with(config).wait() else { panic!("the server took this client") };
    let text = error.to_string();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    let lower = text.to_lowercase();
    assert!(parts.iter().all(|part| lower.contains(part)), "{text}");
    for text in [shown, text, format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "a secret is shown: {text}");
    }
}

#[test]
fn a_user_with_a_password_and_a_token_are_taken_and_wrong_ones_are_not() {
    capture_log();
    let users = configured(
        "users",
        &format!("authorization {{ users = [ {{ user: ann, password: \"{SECRET}\" }} ] }}\n"),
    );
    let tokens = configured("tokens", &format!("authorization {{ token: \"{SECRET}\" }}\n"));
    works(config(&format!("nats://ann:{SECRET}@127.0.0.1:{}", users.port)));
    works(config(&format!("nats://{SECRET}@127.0.0.1:{}", tokens.port)));
    let expected = ["authorization", "127.0.0.1", "check the user"];
    refused(config(&format!("nats://ann:{SECRET}x@127.0.0.1:{}", users.port)), &expected);
    refused(config(&format!("nats://{SECRET}x@127.0.0.1:{}", tokens.port)), &expected);
    refused(config(&format!("nats://127.0.0.1:{}", users.port)), &expected);
    assert_eq!(logged(&["hunter2"]), 0, "a secret is in the log");
}

#[test]
fn a_credentials_file_is_taken_and_its_absence_is_refused() {
    let (server, credentials) = with_operator("test");
    let url = format!("nats://127.0.0.1:{}", server.port);
    let with = |path: &Path| {
        let mut config = config(&url);
        config.nats.credentials = path.display().to_string();
        config
    };
    works(with(&credentials));
    refused(config(&url), &["authorization"]);
    let no_such = Path::new("/no/such/file.creds");
    let Err(error) = keylane::connect_with(with(no_such)).wait() else { panic!("it has no credentials") };
    assert!(
        matches!(&error, ConnectError::Config(error) if error.to_string().contains("/no/such/file.creds")),
        "{error}"
    );
    // A file of another kind, whose text is not shown.
    let other = certificates().join("secret.txt");
    fs::write(&other, SECRET).unwrap();
    let Err(error) = keylane::connect_with(with(&other)).wait() else { panic!("it has no credentials") };
    let text = error.to_string();
    assert!(
        text.contains("nats.credentials") && text.contains("secret.txt") && !text.contains(SECRET),
        "{text}"
    );
}

#[test]
fn a_server_with_a_certificate_is_checked() {
    let server = with_tls("tls");
    let with = |authority: &str| {
        let mut config = config(&format!("nats://127.0.0.1:{}", server.port));
        config.nats.tls = true;
        config.nats.tls_ca = certificates().join(authority).display().to_string();
        config
    };
    works(with("server-ca.pem"));
    refused(with("other-ca.pem"), &["certificate", "127.0.0.1"]);
    let Err(error) = keylane::connect_with(with("no-such-ca.pem")).wait() else {
        panic!("it has no authorities")
    };
    assert!(
        matches!(&error, ConnectError::Config(error) if error.to_string().contains("no-such-ca.pem")),
        "{error}"
    );
}

#[test]
fn tls_on_one_side_alone_and_another_protocol_are_told_at_once() {
    let limit = Duration::from_secs(10);
    let told = |port: u16, tls: bool, parts: &[&str]| {
        let mut config = config(&format!("nats://127.0.0.1:{port}"));
        config.nats.tls = tls;
        let began = std::time::Instant::now();
        refused(config, parts);
        assert!(began.elapsed() < limit, "after {:?} of 30 s", began.elapsed());
    };
    let (plain, encrypted) = (servers::nats(&[]), with_tls("tls-alone"));
    told(plain.port, true, &["has no tls", "`nats.tls`", "127.0.0.1"]);
    told(encrypted.port, false, &["wants tls", "`nats.tls`", "`nats.tls_ca`"]);
    let listener = servers::free_listener();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut client, b"SSH-2.0-OpenSSH_9.9\r\n");
        }
    });
    told(port, false, &["no nats server", "ssh-2.0-openssh", "check the port"]);
}

#[test]
fn a_user_who_may_not_ask_jetstream_or_hear_its_answers_is_told_at_once() {
    for (name, denied, parts) in [
        ("no-info", "publish: { deny: \"$JS.API.INFO\" }", ["may not publish to `$js.api.info`", "permit"]),
        ("no-inbox", "subscribe: { deny: \"_INBOX.>\" }", ["may not subscribe to `_inbox.", "`_inbox.>`"]),
    ] {
        let server = configured(
            name,
            &format!(
                "authorization {{ users = [ {{ user: ann, password: \"{SECRET}\", permissions: {{ {denied} }} }} ] }}\n"
            ),
        );
        let began = std::time::Instant::now();
        refused(config(&format!("nats://ann:{SECRET}@127.0.0.1:{}", server.port)), &parts);
        assert!(began.elapsed() < Duration::from_secs(10), "after {:?} of 30 s", began.elapsed());
    }
}

/// The subjects that the README lists, row by row.
fn permissions_of_the_readme() -> Vec<Vec<&'static str>> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("## Permissions on NATS JetStream").expect("it has the section");
    let (section, _) = section.split_once("\n## ").expect("more follows");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    rows.map(|(subjects, _)| subjects.split('`').filter(|part| part.contains(['*', '>', '.'])).collect())
        .collect()
}

/// A server with a user who may publish to these subjects alone, and where it tells of what it refused.
fn permitting(name: &str, subjects: &[&str]) -> (Server, Config, PathBuf) {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.log", std::process::id()));
    let publish = subjects.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ");
    let server = configured(
        name,
        &format!(
            "log_file: \"{}\"\nauthorization {{ users = [ {{ user: ann, password: \"{SECRET}\", permissions: \
             {{ publish: [{publish}], subscribe: [\"_INBOX.>\"] }} }} ] }}\n",
            log.display()
        ),
    );
    let mut config = config(&format!("nats://ann:{SECRET}@127.0.0.1:{}", server.port));
    config.nats.create_topics = true;
    (server, config, log)
}

#[test]
fn the_permissions_of_the_readme_are_enough_and_caught_up_needs_its_own() {
    let rows = permissions_of_the_readme();
    assert_eq!(rows.len(), 6, "{rows:?}");
    let topics = ["orders.*", "orders.dead.*"];
    let subjects: Vec<_> = rows[1..].concat().into_iter().chain(topics).collect();
    for stream in ["", "all"] {
        let (_server, mut config, log) = permitting("permissions", &subjects);
        stream.clone_into(&mut config.nats.stream);
        let bus = keylane::connect_with(config.clone()).wait().unwrap();
        for topic in ["orders", "orders.dead"] {
            bus.create_topic(topic).wait().unwrap();
        }
        bus.publish("orders", numbered("bad", 0)).wait().unwrap();
        bus.publish("orders", numbered("good", 1)).wait().unwrap();
        let subscribe = |bus: &keylane::Bus| {
            let builder = bus.subscribe_envelopes("orders").group("billing");
            let builder = builder.then(keylane::DeadLetter::to("orders.dead"));
            let handler = |event: &keylane::Event| match event.aggregate_id() {
                Some("bad") => Err(keylane::HandlerError::terminal("planted")),
                _ => Ok(()),
            };
            let orders = builder.handle(handler).unwrap();
            orders.ready().wait_timeout(LIMIT).expect("it joins").unwrap();
            orders
        };
        let first = subscribe(&bus);
        first.caught_up().wait_timeout(LIMIT).expect("it may ask").unwrap();
        assert_eq!((first.stats().succeeded, first.stats().dead_lettered), (1, 1));
        let other = keylane::connect_with(config).wait().unwrap();
        let second = subscribe(&other);
        first.drain(LIMIT).wait();
        bus.publish("orders", numbered("good", 2)).wait().unwrap();
        second.until(|stats| stats.succeeded == 1).wait_timeout(LIMIT).expect("it takes over").unwrap();
        let told = fs::read_to_string(&log).unwrap();
        assert!(!told.contains("Violation"), "{told}");
        fs::remove_file(log).unwrap();
    }
    // A topic's end in a stream of many is asked for by a subject of its own.
    let without: Vec<_> =
        subjects.into_iter().filter(|subject| *subject != "$JS.API.STREAM.MSG.GET.*").collect();
    let (_server, mut config, log) = permitting("too-few-permissions", &without);
    config.nats.stream = "all".to_owned();
    let bus = keylane::connect_with(config).wait().unwrap();
    bus.publish("orders", numbered("good", 1)).wait().unwrap();
    let orders = bus.subscribe_envelopes("orders").group("billing").handle(|_| Ok(())).unwrap();
    let asked = orders.caught_up();
    orders.until(|stats| stats.succeeded == 1).wait_timeout(LIMIT).expect("it is handled").unwrap();
    eventually("the server refuses the question", || {
        fs::read_to_string(&log)
            .is_ok_and(|told| told.contains("Violation") && told.contains("STREAM.MSG.GET.all"))
    })
    .unwrap();
    let refused = asked.wait_timeout(LIMIT).expect("the server says so").unwrap_err().to_string();
    assert!(refused.contains("may not publish to `$JS.API.STREAM.MSG.GET.all`"), "{refused}");
    fs::remove_file(log).unwrap();
}
