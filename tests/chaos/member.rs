//! A process of the run, as the run sees it.

use crate::child::{PART, Part, Role};
use crate::history::{Entry, Fault, Line, Log, whole_lines};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Member {
    pub number: u32,
    pub log: PathBuf,
    child: Child,
    is_stopped: bool,
    is_leaving: bool,
}

impl Member {
    /// Starts a process with this part. Its log and what it prints are files in the folder.
    pub fn start(folder: &Path, number: u32, role: Role) -> Self {
        let name = match role {
            Role::Publisher(_) => "publisher",
            Role::Consumer(_) | Role::Planted(_) => "consumer",
        };
        let log = folder.join(format!("{name}-{number}.log"));
        let printed =
            File::create(folder.join(format!("{name}-{number}.out"))).expect("target can be written");
        let part = Part { member: number, log: log.clone(), role };
        let child = Command::new(std::env::current_exe().expect("it has a path"))
            .args(["a_member_of_a_run", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PART, serde_json::to_string(&part).expect("a part is plain data"))
            .stdin(Stdio::piped())
            .stdout(printed.try_clone().expect("a file"))
            .stderr(printed)
            .spawn()
            .expect("this program can be started again");
        Self { number, log, child, is_stopped: false, is_leaving: false }
    }

    pub fn lines(&self) -> Vec<Line> {
        whole_lines(&self.log)
    }

    pub fn is_ready(&self) -> bool {
        self.lines().iter().any(|line| line.entry == Entry::Ready)
    }

    pub const fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process has a number");
        kill_process(pid, signal).expect("it is a child that nobody has waited for");
    }

    pub fn kill(mut self, faults: &Log) {
        self.child.kill().expect("it is a child that nobody has waited for");
        self.child.wait().expect("it is a child");
        faults.append(Entry::Fault(Fault::Killed(self.number)));
    }

    /// Its number, unless it is stopped already.
    pub fn stop(&mut self, faults: &Log) -> Option<u32> {
        if self.is_stopped {
            return None;
        }
        faults.append(Entry::Fault(Fault::Stopped(self.number)));
        self.signal(Signal::STOP);
        self.is_stopped = true;
        Some(self.number)
    }

    pub fn go_on(&mut self, faults: &Log) {
        if self.is_stopped {
            self.signal(Signal::CONT);
            faults.append(Entry::Fault(Fault::Continued(self.number)));
            self.is_stopped = false;
        }
    }

    /// Asks it to end by itself: a consumer drains, a publisher waits for its receipts.
    pub fn leave(&mut self, faults: &Log) {
        if !self.is_leaving {
            faults.append(Entry::Fault(Fault::Leaving(self.number)));
            self.is_leaving = true;
            drop(self.child.stdin.take());
        }
    }

    /// Whether it has ended by itself.
    ///
    /// # Panics
    /// If it ended unasked, unless it may, or with an error.
    pub fn has_gone(&mut self, faults: &Log) -> bool {
        let Some(status) = self.child.try_wait().expect("it is a child") else { return false };
        let out = self.log.with_extension("out");
        assert!(status.success(), "member {} ended with {status}; see {}", self.number, out.display());
        faults.append(Entry::Fault(Fault::Gone(self.number)));
        true
    }

    /// Waits until it has ended by itself; none if it does not.
    pub fn gone_within(mut self, limit: Duration, faults: &Log) -> Option<()> {
        let until = Instant::now() + limit;
        while !self.has_gone(faults) {
            if Instant::now() > until {
                self.kill(faults);
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(())
    }
}

impl Drop for Member {
    /// A run that fails leaves nothing behind.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
