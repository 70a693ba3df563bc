//! Which versions of the crates were measured.

/// The lock file of this workspace, which is what the programs were built from.
const LOCK: &str = include_str!("../../Cargo.lock");

/// `NAME VERSION` of a crate of the contest; its versions, the lowest first, where it is there more than once.
///
/// ```
/// assert!(measure::version_of("serde").starts_with("serde 1."));
/// ```
///
/// # Panics
/// When the workspace does not depend on that crate.
pub fn version_of(name: &str) -> String {
    let head = format!("name = \"{name}\"");
    let mut lines = LOCK.lines();
    let mut found = Vec::new();
    while lines.by_ref().any(|line| line == head) {
        let version = lines.next().and_then(|line| line.strip_prefix("version = "));
        found.push(version.expect("a version follows each name of a lock file").trim_matches('"'));
    }
    assert!(!found.is_empty(), "the contest does not depend on {name}");
    format!("{name} {}", found.join(", "))
}
