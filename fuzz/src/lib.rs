//! What the fuzz targets check.

use keylane::{BusUrl, Config, Record, Route};

/// Routes a record made of these headers, this key and this value in every way.
///
/// # Panics
/// If a route finds an id that breaks the rule for ids, or one that is nowhere in the record.
pub fn routing((headers, key, value): (Vec<(String, Vec<u8>)>, Option<Vec<u8>>, Vec<u8>)) {
    let mut record = Record::new(value);
    record.key = key.map(Into::into);
    for (name, value) in &headers {
        record = record.with_header(name.clone(), value.clone());
    }
    let shown = |bytes: &[u8]| {
        std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned)
    };
    let by_header = headers.first().map(|(name, _)| Route::Header(name.clone()));
    let routes = [Route::Auto, Route::Envelope, Route::Key, Route::Subject(0), Route::RoundRobin];
    for route in routes.into_iter().chain(by_header) {
        let Some(id) = route.aggregate_id_of(&record) else { continue };
        let is_header = || headers.iter().any(|(_, value)| shown(value) == id);
        let is_key = || record.key.as_deref().is_some_and(|key| shown(key) == id);
        let is_envelope = || keylane::Envelope::parse(&record.value).is_ok_and(|envelope| envelope.aggregate_id() == id);
        assert!(is_envelope() || is_header() || is_key(), "{route:?} found `{id}` nowhere");
    }
}

/// Reads a text as every kind of configuration.
///
/// # Panics
/// If a URL that was read is not read again as the same from what it displays, or an error is empty.
pub fn config(text: &str) {
    if let Err(error) = Config::from_toml(text) {
        assert!(!error.to_string().is_empty());
    }
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let variable = (format!("KEYLANE_{name}"), value.to_owned());
    if let Err(error) = Config::from_env([variable]) {
        assert!(!error.to_string().is_empty());
    }
    match BusUrl::parse(text) {
        // What is shown hides a password, so only a URL without one comes back as it was.
        Ok(url) if url.credentials().is_none() => assert_eq!(BusUrl::parse(&url.to_string()).as_ref(), Ok(&url)),
        Ok(url) => assert!(url.to_string().contains("***")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads a text as what a commit carries beside its offset, and writes it again.
///
/// # Panics
/// If it is not read again as the same.
pub fn position((watermark, text): (u64, &str)) {
    #[cfg(fuzzing)]
    keylane::fuzzing::position_text(text, watermark);
    // The entry is there under cargo-fuzz alone.
    #[cfg(not(fuzzing))]
    let _ = (watermark, text);
}
