//! Real brokers for tests: servers of their own, on free loopback ports, with their files under `target/brokers`, that
//! end with the test program whatever ends it.

pub mod proxy;

use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const KAFKA: &str = "kafka-4.3.1";
const NATS: &str = "nats-server-2.15.1";
/// How long a server may take to start, on a machine that is busy.
const STARTS: Duration = Duration::from_secs(180);

/// Where `tests/brokers` installs.
fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/brokers")
}

/// What is installed under this name.
///
/// # Panics
/// If it is not: a test that lacks its broker fails.
fn installed(name: &str) -> PathBuf {
    let path = home().join(name);
    assert!(path.exists(), "{} is missing: run tests/brokers, which installs it", path.display());
    path
}

/// A port that nobody has, and that this program gives to nobody else: a server may take its time to listen there. Below
/// those that the system gives to whoever connects or asks for any.
pub fn free_port() -> u16 {
    free_listener().local_addr().expect("it is bound").port()
}

/// The same with a listener there.
pub fn free_listener() -> TcpListener {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 6_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Programs that run beside each other begin at different ones.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS {
        let port = FIRST + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port as u16)) {
            return listener;
        }
    }
    panic!("none of {PORTS} loopback ports is free");
}

/// An empty folder for a server's files; those of test programs that are gone are removed.
fn folder(kind: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let runs = home().join("runs");
    fs::create_dir_all(&runs).expect("target can be written");
    for entry in fs::read_dir(&runs).expect("it is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_alive = name.split('-').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
        if !is_alive {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = runs.join(format!("{}-{kind}-{number}", std::process::id()));
    fs::create_dir_all(&folder).expect("target can be written");
    folder
}

/// A program under a shell that kills it as soon as its input ends, so that it does not outlive this program.
struct Process {
    shell: Child,
    pid: u32,
}

impl Process {
    fn start(command: &[String], log: &Path, pid_file: &Path) -> Self {
        const SCRIPT: &str = "pid_file=$1; shift; \"$@\" </dev/null & echo $! >\"$pid_file\"; \
                              read -r _; kill -9 $! 2>/dev/null; wait";
        let _ = fs::remove_file(pid_file);
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("target can be written");
        let shell = Command::new("bash")
            .args(["-c", SCRIPT, "server"])
            .arg(pid_file)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("bash runs");
        let until = Instant::now() + STARTS;
        let pid = loop {
            let text = fs::read_to_string(pid_file).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            assert!(Instant::now() < until, "the server did not start");
            thread::sleep(Duration::from_millis(2));
        };
        Self { shell, pid }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process has it");
        kill_process(pid, signal).expect("it runs");
    }

    /// Stops it, and waits until its last thread stands still: the signal is only taken by one of them, and the others
    /// run on for as long as that one waits for a processor.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid);
        let until = Instant::now() + STARTS;
        let is_stopped = |task: fs::DirEntry| state(&task.path().join("stat")) == Some('T');
        while !fs::read_dir(&tasks).expect("it runs").flatten().all(is_stopped) {
            assert!(Instant::now() < until, "the server runs on after SIGSTOP");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_running(&self) -> bool {
        state(&Path::new("/proc").join(self.pid.to_string()).join("stat")).is_some_and(|state| state != 'Z')
    }

    fn kill(&mut self) {
        if let Some(mut input) = self.shell.stdin.take() {
            let _ = input.write_all(b"\n");
        }
        let _ = self.shell.wait();
    }
}

/// The state of a process or a thread, from its `stat`; none: it is gone.
fn state(stat: &Path) -> Option<char> {
    // The name before it may have anything in it.
    fs::read_to_string(stat).ok()?.rsplit(") ").next()?.chars().next()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a server is started, stopped and started again on its files.
pub struct Server {
    process: Option<Process>,
    command: Vec<String>,
    folder: PathBuf,
    /// The port that clients connect to.
    pub port: u16,
}

impl Server {
    fn start(folder: PathBuf, command: Vec<String>, port: u16) -> Self {
        let mut server = Self { process: None, command, folder, port };
        server.restart();
        server
    }

    /// Starts it again on the same ports and files, if it does not run, and waits until it takes connections.
    pub fn restart(&mut self) {
        if self.process.is_none() {
            let (log, pid) = (self.folder.join("log"), self.folder.join("pid"));
            self.process = Some(Process::start(&self.command, &log, &pid));
        }
        self.wait_for_port();
    }

    fn wait_for_port(&self) {
        let until = Instant::now() + STARTS;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let process = self.process.as_ref().expect("it was started");
            assert!(
                process.is_running() && Instant::now() < until,
                "the server does not take connections; see {}",
                self.folder.join("log").display()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Stops it, or lets it go on, as a machine does that hangs: its connections stay. Once it is stopped nothing of it
    /// runs.
    pub fn freeze(&self, is_frozen: bool) {
        let process = self.process.as_ref().expect("it runs");
        if is_frozen { process.stop() } else { process.signal(Signal::CONT) }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("the server's files are kept: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A nats-server with JetStream; `options` are arguments of its own beyond address, port and store.
pub fn nats(options: &[&str]) -> Server {
    let folder = folder("nats");
    let store = folder.join("store").to_string_lossy().into_owned();
    let mut all = vec!["-js", "-sd", &store];
    all.extend(options);
    start_nats(folder, &all)
}

/// Three nats-servers that are a cluster with JetStream. Each takes connections before they have elected a leader.
pub fn nats_cluster() -> Vec<Server> {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let start = |n: usize| {
        let folder = folder("nats");
        let store = folder.join("store").to_string_lossy().into_owned();
        let (name, routes_of_all) = (format!("n{n}"), routes.join(","));
        let options = ["-js", "-sd", &store, "--server_name", &name, "--cluster_name", "tests"];
        start_nats(folder, &[&options[..], &["--cluster", &routes[n], "--routes", &routes_of_all]].concat())
    };
    (0..3).map(start).collect()
}

/// A nats-server that has no JetStream.
pub fn nats_without_jetstream() -> Server {
    start_nats(folder("nats"), &[])
}

fn start_nats(folder: PathBuf, options: &[&str]) -> Server {
    let (program, port) = (installed(NATS), free_port());
    let mut command = words(&[&program.to_string_lossy(), "-a", "127.0.0.1", "-p", &port.to_string()]);
    command.extend(words(options));
    Server::start(folder, command, port)
}

/// One more listener of a Kafka broker: how clients come to it, and what is said of it in the broker's properties.
pub struct Listener {
    /// In capitals, without a dash.
    pub name: &'static str,
    /// `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: &'static str,
    pub port: u16,
    /// The port that the broker tells its clients to come to: another one where a proxy stands before it.
    pub advertised: u16,
}

/// An Apache Kafka broker of one node with a plain listener on its port, these others, and more properties. Ready
/// means that it answers a client, not that its port is open: connect with a timeout.
pub fn kafka(listeners: &[Listener], properties: &str) -> Server {
    kafka_formatted(listeners, |_| properties.to_owned(), &[])
}

/// The same, with properties that may name files in the server's folder, and with more arguments to the formatting of
/// its log.
pub fn kafka_formatted(
    listeners: &[Listener],
    properties: impl FnOnce(&Path) -> String,
    arguments: &[&str],
) -> Server {
    let (folder, port, controller) = (folder("kafka"), free_port(), free_port());
    let properties = properties(&folder);
    let (mut listen, mut advertise, mut protocols) = (
        format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
        format!("PLAINTEXT://127.0.0.1:{port}"),
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
    );
    for Listener { name, protocol, port, advertised } in listeners {
        let _ = write!(listen, ",{name}://127.0.0.1:{port}");
        let _ = write!(advertise, ",{name}://127.0.0.1:{advertised}");
        let _ = write!(protocols, ",{name}:{protocol}");
    }
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\n{QUORUM}1@127.0.0.1:{controller}\n\
         listeners={listen}\nadvertised.listeners={advertise}\nlistener.security.protocol.map={protocols}\n\
         {properties}"
    );
    start_kafka(folder, &text, arguments, port)
}

/// A second broker in the cluster of the first, with a plain listener on its port. It ends with the first one's quorum.
pub fn kafka_beside(first: &Server, properties: &str) -> Server {
    let (folder, port) = (folder("kafka"), free_port());
    let known = fs::read_to_string(first.folder().join("server.properties")).expect("it was started");
    let quorum = known.lines().find(|line| line.starts_with(QUORUM)).expect("it names its quorum");
    let text = format!(
        "process.roles=broker\nnode.id=2\n{quorum}\nlisteners=PLAINTEXT://127.0.0.1:{port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n{properties}"
    );
    start_kafka(folder, &text, &[], port)
}

const QUORUM: &str = "controller.quorum.voters=";

/// Formats the log of a node with these properties of its own, and starts it.
fn start_kafka(folder: PathBuf, properties: &str, arguments: &[&str], port: u16) -> Server {
    let libs = installed(KAFKA).join("*");
    let config = folder.join("server.properties");
    let text = format!(
        "controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs={}\n\
         offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=4\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\ngroup.consumer.min.session.timeout.ms=1000\n\
         group.consumer.min.heartbeat.interval.ms=200\ngroup.consumer.session.timeout.ms=6000\n\
         group.consumer.heartbeat.interval.ms=500\nauto.create.topics.enable=false\n{properties}\n",
        folder.join("data").display()
    );
    fs::write(&config, text).expect("target can be written");
    let java = |class: &str| {
        words(&[
            "java",
            "-Xmx512m",
            "-Xms256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=4",
            "-cp",
            &libs.to_string_lossy(),
            class,
        ])
    };
    let mut format = java("kafka.tools.StorageTool");
    format.extend(words(&["format", "-t", "keylane-tests-00000000", "-c", &config.to_string_lossy()]));
    format.extend(words(arguments));
    let formatted = Command::new(&format[0]).args(&format[1..]).output().expect("java runs");
    assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
    let mut command = java("kafka.Kafka");
    command.push(config.to_string_lossy().into_owned());
    Server::start(folder, command, port)
}

/// A listener of the shared Kafka broker that one test has for itself.
pub struct Lease {
    /// Where the broker listens.
    pub port: u16,
    /// Where it tells clients to come: nobody listens there until a test's proxy does.
    pub advertised: u16,
}

/// The ports of the listeners that no test has; none: nobody has asked yet.
static FREE_LISTENERS: Mutex<Option<Vec<(u16, u16)>>> = Mutex::new(None);
static GIVEN_BACK: Condvar = Condvar::new();

/// Waits for a listener of the shared Kafka broker that no other test has.
pub fn lease_listener() -> Lease {
    let ports = &shared_kafka().1;
    let mut free = FREE_LISTENERS.lock().unwrap();
    loop {
        if let Some((port, advertised)) = free.get_or_insert_with(|| ports.clone()).pop() {
            return Lease { port, advertised };
        }
        free = GIVEN_BACK.wait(free).unwrap();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Ok(mut free) = FREE_LISTENERS.lock() {
            free.get_or_insert_default().push((self.port, self.advertised));
        }
        GIVEN_BACK.notify_one();
    }
}

/// How many tests at once may have a proxy before the shared Kafka broker.
const PROXIES: usize = 12;

/// The Kafka broker that the tests of one program share, and the ports of its listeners that proxies stand before:
/// where the broker listens, and where it says that it does.
pub fn shared_kafka() -> &'static (Server, Vec<(u16, u16)>) {
    const NAMES: [&str; PROXIES] = ["PA", "PB", "PC", "PD", "PE", "PF", "PG", "PH", "PI", "PJ", "PK", "PL"];
    static KAFKA: OnceLock<(Server, Vec<(u16, u16)>)> = OnceLock::new();
    KAFKA.get_or_init(|| {
        let ports: Vec<(u16, u16)> = (0..PROXIES).map(|_| (free_port(), free_port())).collect();
        let listeners: Vec<Listener> = NAMES
            .iter()
            .zip(&ports)
            .map(|(name, &(port, advertised))| Listener { name, protocol: "PLAINTEXT", port, advertised })
            .collect();
        (kafka(&listeners, ""), ports)
    })
}
