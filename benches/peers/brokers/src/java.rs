//! The variants on the JVM, each from a folder with a build of its own beside this crate.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first of the programs that are needed that is not here.
pub(crate) fn missing() -> Option<&'static str> {
    ["java", "mvn"].into_iter().find(|program| {
        let asked =
            Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        !asked.is_ok_and(|status| status.success())
    })
}

fn folder(variant: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../java").join(variant.replace('_', "-"))
}

/// Builds a variant unless it is there, newer than its sources.
pub(crate) fn build(variant: &str) -> Result<(), String> {
    let folder = folder(variant);
    let time = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
    let mut sources = vec![folder.join("pom.xml")];
    for sources_at in [folder.join("src/main/java"), folder.join("../common")] {
        let found = sources_at.read_dir().map_err(|error| format!("{}: {error}", sources_at.display()))?;
        sources.extend(found.filter_map(Result::ok).map(|entry| entry.path()));
    }
    let built = time(&folder.join("target/contest.jar"));
    if built.is_some() && sources.iter().all(|source| time(source) <= built) {
        return Ok(());
    }
    if let Some(missing) = missing() {
        return Err(format!("{variant} needs `{missing}`, which is not here"));
    }
    let mvn = Command::new("mvn")
        .args(["-q", "-B", "package"])
        .current_dir(&folder)
        .stdout(Stdio::from(std::io::stderr()))
        .status();
    match mvn {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`mvn package` in {} ended with {status}", folder.display())),
        Err(error) => Err(format!("`mvn` could not be started: {error}")),
    }
}

/// What a variant is told.
#[derive(Debug)]
pub(crate) struct Contest<'a> {
    pub(crate) servers: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) group: &'a str,
    pub(crate) shape: &'a str,
    pub(crate) handler_us: u64,
    pub(crate) records: u64,
    pub(crate) is_failing: bool,
}

/// Becomes the JVM of a variant, so that a run stays one process; it comes back only with an error.
pub(crate) fn become_jvm(variant: &str, contest: &Contest<'_>) -> Result<(), String> {
    build(variant)?;
    let target = folder(variant).join("target");
    let error = Command::new("java")
        .args(["-Xms1g", "-Xmx2g", "-cp"])
        .arg(format!("{0}/contest.jar:{0}/libs/*", target.display()))
        .arg("Contest")
        .args([contest.servers, contest.topic, contest.group, contest.shape])
        .args([contest.handler_us.to_string(), contest.records.to_string(), contest.is_failing.to_string()])
        .exec();
    Err(format!("`java` could not be started: {error}"))
}
