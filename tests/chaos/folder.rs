//! The folder of a run's logs, below target: kept when the run fails.

use crate::history::{Entry, Id, Log};
use crate::target::Held;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Folder {
    path: PathBuf,
    is_kept: Cell<bool>,
    pub faults: Log,
}

impl Folder {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/chaos").join(name);
        fs::create_dir_all(&path).expect("target can be written");
        let faults = Log::open(&path.join("faults-0.log"));
        Self { path, is_kept: Cell::new(false), faults }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its own name, which no other folder has.
    pub fn name(&self) -> String {
        self.path.file_name().expect("it has one").to_string_lossy().into_owned()
    }

    pub fn keep(&self) {
        self.is_kept.set(true);
    }

    /// Writes down what the broker holds.
    pub fn write_stored(&self, held: &[Held]) -> Vec<Id> {
        let log = Log::open(&self.path.join("stored-0.log"));
        held.iter().for_each(|held| log.append_at(held.time, Entry::Stored(held.id, held.place)));
        held.iter().map(|held| held.id).collect()
    }

    /// Writes down what the broker holds as dead letters.
    pub fn write_dead(&self, held: &[Held]) {
        let log = Log::open(&self.path.join("dead-0.log"));
        held.iter().for_each(|held| log.append_at(held.time, Entry::Dead(held.id)));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let is_wanted = std::env::var_os("CHAOS_KEEP").is_some();
        if self.is_kept.get() || is_wanted || std::thread::panicking() {
            eprintln!("the logs of the run are kept: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
