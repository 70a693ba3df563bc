//! Where the bus is: `memory:`, `kafka://host:port,host:port/?group=…`, `nats://user@host:port/?stream=…`.
//!
//! Read by hand, because a list of hosts is no URL of the WHATWG's standard, and because no error may quote a
//! password: what stands where one could be is never shown, also in a URL that is wrong.

use super::names;
use super::suggest::distance;
use crate::error::{ConnectError, UrlError, shown};
use std::fmt::{self, Write as _};
use std::net::Ipv6Addr;

/// A backend, as the first word of a URL names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `memory:`, the bus inside the process; always there.
    Memory,
    /// `kafka://`, any cluster that speaks Kafka's protocol.
    Kafka,
    /// `nats://`, a NATS server with JetStream.
    Nats,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Memory, Self::Kafka, Self::Nats];

    /// The word in front of the colon, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Kafka => "kafka",
            Self::Nats => "nats",
        }
    }

    /// Whether this build has the backend.
    ///
    /// # Errors
    /// [`ConnectError::FeatureDisabled`] with the name of the Cargo feature that brings it.
    pub fn require_feature(self) -> Result<(), ConnectError> {
        let (feature, is_enabled) = match self {
            Self::Memory => return Ok(()),
            Self::Kafka => ("kafka", cfg!(feature = "kafka")),
            Self::Nats => ("nats", cfg!(feature = "nats")),
        };
        if is_enabled { Ok(()) } else { Err(ConnectError::FeatureDisabled { scheme: self.name(), feature }) }
    }

    /// The options that may stand behind `?`. Those of `memory` are the keys of the section `[memory]`.
    const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Memory => {
                &["partitions", "retention_records", "retention_bytes", "create_topics", "topics"]
            }
            Self::Kafka => &["group"],
            Self::Nats => &["group", "stream"],
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            // A memory bus has no hosts, so that nobody asks.
            Self::Memory => 0,
            Self::Kafka => 9092,
            Self::Nats => 4222,
        }
    }
}

/// A password or a token, which is never printed.
///
/// ```
/// use keylane::{BusUrl, config::Credentials};
///
/// let url = BusUrl::parse("nats://ann:hunter2@localhost").unwrap();
/// let Some(Credentials::Password { user, password }) = url.credentials() else { unreachable!() };
/// assert_eq!((user.as_str(), password.expose()), ("ann", "hunter2"));
/// assert_eq!(format!("{password} {password:?}"), "*** ***");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one who has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// `user:password@`, as Kafka and NATS take it.
    Password {
        /// Not a secret: it is shown.
        user: String,
        /// Never shown.
        password: Secret,
    },
    /// `token@`, NATS only: as in every official client, a user without a password is an authentication token.
    Token(Secret),
}

/// One address of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A DNS name, an IPv4 address, or an IPv6 address without its brackets.
    pub name: String,
    /// 1 to 65535; 9092 for Kafka and 4222 for NATS where the URL has none.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// The URL of a bus, taken apart and checked; no I/O.
///
/// - `memory:` or `memory:?partitions=8&topics=orders,payments`: options are the keys of the section `[memory]`.
/// - `kafka://[user:password@]host[:port][,host[:port]…][/?group=…]`
/// - `nats://[user:password@|token@]host[:port][,…][/?stream=…&group=…]`
///
/// `group` is the group of each subscription that names none; `stream` is the key `nats.stream`.
///
/// Users, passwords and options are percent-decoded, IPv6 addresses stand in brackets. `Display` writes the URL
/// back with every port, and with `***` for a password or a token.
///
/// ```
/// use keylane::{BusUrl, config::Scheme};
///
/// let url = BusUrl::parse("nats://ann:p%40ss@[::1],backup:4333/?stream=ORDERS").unwrap();
/// assert_eq!(url.scheme(), Scheme::Nats);
/// assert_eq!(url.hosts()[0].port, 4222);
/// assert_eq!(url.option("stream"), Some("ORDERS"));
/// assert_eq!(url.to_string(), "nats://ann:***@[::1]:4222,backup:4333/?stream=ORDERS");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusUrl {
    scheme: Scheme,
    credentials: Option<Credentials>,
    hosts: Vec<Host>,
    options: Vec<(&'static str, String)>,
}

impl BusUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// [`UrlError`] with the part that is wrong and what was expected there; never with a password or a token.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let missing_scheme = || UrlError::MissingScheme { text: redact(text) };
        let (name, rest) = text.split_once(':').ok_or_else(missing_scheme)?;
        let is_scheme_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.bytes().all(is_scheme_byte) {
            return Err(missing_scheme());
        }
        let Some(scheme) = Scheme::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name)) else {
            // In `user:password@host` and in `host:9092` no scheme was meant.
            return Err(if rest.starts_with("//") {
                UrlError::UnknownScheme { scheme: shown(name.as_bytes()) }
            } else {
                missing_scheme()
            });
        };
        let (authority, tail) = match (scheme, rest.strip_prefix("//")) {
            (Scheme::Memory, _) if rest.is_empty() || rest.starts_with('?') => ("", rest),
            (Scheme::Memory, _) => {
                return wrong("address", redact(rest), "nothing or `?option=value` behind `memory:`");
            }
            (_, None) => {
                return wrong("address", redact(rest), "`//host` or `//host:port` behind the scheme");
            }
            (_, Some(rest)) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
        };
        // Before anything is quoted: with an `@` further on, what looks like a host may be half a password.
        if tail.contains('@') {
            return wrong(
                "credentials",
                HIDDEN.to_owned(),
                "`@`, `/`, `?` and `#` in a user, a password or an option to be written `%40`, `%2F`, `%3F` \
                 and `%23`",
            );
        }
        let (user_info, hosts) = match authority.rsplit_once('@') {
            Some((user_info, hosts)) => (Some(user_info), hosts),
            None => (None, authority),
        };
        Ok(Self {
            scheme,
            credentials: user_info.map(|text| credentials(scheme, text)).transpose()?,
            hosts: match scheme {
                Scheme::Memory => Vec::new(),
                _ => hosts.split(',').map(|text| host(scheme, text)).collect::<Result<_, _>>()?,
            },
            options: options(scheme, tail)?,
        })
    }

    /// The backend.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The addresses in their order; empty for `memory:`, else at least one.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Who connects, if the URL says so.
    pub const fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The options in their order, decoded; no name stands twice.
    pub fn options(&self) -> impl ExactSizeIterator<Item = (&'static str, &str)> {
        self.options.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The value of one option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme.name())?;
        if self.scheme != Scheme::Memory {
            f.write_str("//")?;
            match &self.credentials {
                Some(Credentials::Password { user, password }) => write!(f, "{}:{password}@", encode(user))?,
                Some(Credentials::Token(token)) => write!(f, "{token}@")?,
                None => {}
            }
            for (i, host) in self.hosts.iter().enumerate() {
                write!(f, "{}{host}", if i == 0 { "" } else { "," })?;
            }
            if !self.options.is_empty() {
                f.write_str("/")?;
            }
        }
        for (i, (name, value)) in self.options.iter().enumerate() {
            write!(f, "{}{name}={}", if i == 0 { '?' } else { '&' }, encode(value))?;
        }
        Ok(())
    }
}

/// Stands for what is, or may be, a credential.
const HIDDEN: &str = "***";

/// The text of a URL that may be wrong, as `Debug` may show it.
pub(super) fn redacted(text: &str) -> String {
    BusUrl::parse(text).map_or_else(|_| "(invalid)".to_owned(), |url| url.to_string())
}

/// What is left of a malformed text when everything that could be a credential is taken out.
fn redact(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("{HIDDEN}@{}", shown(rest.as_bytes())),
        None => shown(text.as_bytes()),
    }
}

fn wrong<T>(part: &'static str, text: String, expected: &'static str) -> Result<T, UrlError> {
    Err(UrlError::Part { part, text, expected })
}

fn credentials(scheme: Scheme, text: &str) -> Result<Credentials, UrlError> {
    let decoded = |text: &str| match decode(text) {
        Some(decoded) if !decoded.is_empty() && !text.contains('@') => Ok(decoded),
        _ => wrong(
            "credentials",
            HIDDEN.to_owned(),
            "a user, and a password that is not empty, both percent-encoded UTF-8",
        ),
    };
    match text.split_once(':') {
        Some((user, password)) => {
            Ok(Credentials::Password { user: decoded(user)?, password: Secret(decoded(password)?) })
        }
        None if scheme == Scheme::Nats => Ok(Credentials::Token(Secret(decoded(text)?))),
        None => wrong("credentials", HIDDEN.to_owned(), "`user:password@`"),
    }
}

fn host(scheme: Scheme, text: &str) -> Result<Host, UrlError> {
    const NAME: &str = "a DNS name, an IPv4 address, or an IPv6 address in brackets";
    let (name, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (name, behind) = bracketed.split_once(']').unwrap_or(("", text));
        if name.parse::<Ipv6Addr>().is_err() || !(behind.is_empty() || behind.starts_with(':')) {
            return wrong("host", shown(text.as_bytes()), NAME);
        }
        (name, behind.strip_prefix(':'))
    } else {
        let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if !(1..=253).contains(&name.len()) || !name.bytes().all(is_allowed) {
            return wrong("host", shown(name.as_bytes()), NAME);
        }
        (name, port)
    };
    let port = match port {
        None => scheme.default_port(),
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => number,
            // Not quoted unless it is a number: where `@host` was forgotten, a password stands here.
            _ => {
                let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                let text = if is_number { shown(port.as_bytes()) } else { HIDDEN.to_owned() };
                return wrong("port", format!("{name}:{text}"), "a port from 1 to 65535");
            }
        },
    };
    Ok(Host { name: name.to_owned(), port })
}

/// What stands behind the hosts: a path that says nothing, then the options.
fn options(scheme: Scheme, tail: &str) -> Result<Vec<(&'static str, String)>, UrlError> {
    if let Some((_, fragment)) = tail.split_once('#') {
        return wrong("fragment", shown(fragment.as_bytes()), "no `#`: written `%23` it is part of a value");
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    if !matches!(path, "" | "/") {
        return wrong("path", shown(path.as_bytes()), "`/` or nothing: topics are named when subscribing");
    }
    let mut options: Vec<(&'static str, String)> = Vec::new();
    for pair in query.split('&').filter(|_| !query.is_empty()) {
        let Some((name, Some(value))) = pair.split_once('=').map(|(name, value)| (name, decode(value)))
        else {
            return wrong("option", shown(pair.as_bytes()), "`name=value`, percent-encoded UTF-8");
        };
        let known = scheme.options();
        let nearest =
            known.iter().min_by_key(|known| distance(name, known)).expect("every scheme has options");
        if *nearest != name {
            let option = shown(name.as_bytes());
            return Err(UrlError::UnknownOption { scheme: scheme.name(), option, nearest });
        }
        if options.iter().any(|(given, _)| given == nearest) {
            return wrong("option", name.to_owned(), "each option once");
        }
        let checked = match *nearest {
            "group" => names::group(&value),
            "stream" => names::stream(&value),
            // Those of `memory` are read as the keys of `[memory]` that they are.
            _ => Ok(()),
        };
        checked.map_err(|error| UrlError::Name { option: nearest, error })?;
        options.push((nearest, value));
    }
    Ok(options)
}

/// Percent-decodes; none if an escape is not two hexadecimal digits or the result is no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            (digit()? * 16 + digit()?) as u8
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

/// Percent-encodes what RFC 3986 does not leave unreserved; commas stay, because lists are read by people.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b',') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a String does not fail");
        }
    }
    encoded
}
