//! Server process with its log, which ends with the test.

// Signals, and killing a server together with its test, have no safe interface in the standard library.
#![allow(unsafe_code)]

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, PipeReader},
    net::{Ipv4Addr, TcpListener},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{self, Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{LIMIT, eventually};

/// Running server.
///
/// It is killed when this value is dropped, also if the test panics. It also dies when the *thread* that started it ends for any
/// reason, so that a killed test binary leaves no servers running. So start and restart it on a thread that lives as long as it is
/// needed, and do not share it between tests.
pub struct Server {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    /// Thread that collects the log; `None` after it was joined.
    collector: Option<JoinHandle<()>>,
    reaped: bool,
}

impl Server {
    /// Runs `command` and waits until a line of its log contains `ready`.
    ///
    /// Returns the log if the server ends before that. Panics if the program is missing, with the name of its Debian `package`, and
    /// if the server is not ready in time.
    pub fn start(mut command: Command, package: &str, ready: &str) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = io::pipe().expect("a pipe for the server's log");
        command
            .env("PATH", server_path())
            .stdin(Stdio::null())
            .stdout(writer.try_clone().expect("a second end of the pipe"))
            .stderr(writer);
        die_with_this_thread(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}", cannot_run(&name, package, &error)));
        // The command has the write ends of the pipe, so the log would never end.
        drop(command);

        let log = Arc::default();
        let (lines, arrived) = mpsc::channel();
        let collected = Arc::clone(&log);
        let collector = thread::spawn(move || collect(reader, &collected, &lines));
        let mut server = Self {
            name,
            child,
            log,
            collector: Some(collector),
            reaped: false,
        };

        let started = Instant::now();
        loop {
            match arrived.recv_timeout(LIMIT.saturating_sub(started.elapsed())) {
                Ok(line) if line.contains(ready) => return Ok(server),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    server.kill();
                    return Err(server.log());
                }
                Err(RecvTimeoutError::Timeout) => panic!(
                    "{} did not log '{ready}' within {LIMIT:?}; its log:\n{}",
                    server.name,
                    server.log()
                ),
            }
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output and standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends it `signal`.
    pub fn signal(&self, signal: libc::c_int) {
        // After a wait, the id may belong to another process.
        assert!(!self.reaped, "{} has already ended", self.name);
        let pid = libc::pid_t::try_from(self.pid()).expect("a process id");
        // SAFETY: kill touches no memory, and the process is a child that has not been waited for.
        let status = unsafe { libc::kill(pid, signal) };
        assert_eq!(
            status,
            0,
            "cannot signal {}: {}",
            self.name,
            io::Error::last_os_error()
        );
    }

    /// Kills it, as a loss of power would, even if it is paused.
    pub fn kill(&mut self) {
        if !self.reaped {
            self.child.kill().expect("a child can be killed");
            self.child.wait().expect("a child can be waited for");
            self.reaped = true;
        }
    }

    /// Stops it with SIGTERM and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Returns true if it has ended by itself. The log is complete then.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.reaped
            || self
                .child
                .try_wait()
                .expect("a child can be waited for")
                .is_some();
        if ended {
            self.finish();
        }
        ended
    }

    /// Waits until it has ended. The log is complete then.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = eventually(LIMIT, &format!("{} ends", self.name), || {
            self.child.try_wait().expect("a child can be waited for")
        });
        self.finish();
        status
    }

    /// Waits for the rest of the log in the pipe, after the process has ended.
    fn finish(&mut self) {
        self.reaped = true;
        if let Some(collector) = self.collector.take() {
            collector.join().expect("the log is collected");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failures are ignored here: a second panic while a test unwinds would abort and hide the first.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server on a free port of 127.0.0.1, and on another one if that port is taken in the meantime.
pub fn on_free_port(mut start: impl FnMut(u16) -> Result<Server, String>) -> (u16, Server) {
    for _ in 0..10 {
        let port = free_port();
        match start(port) {
            Ok(server) => return (port, server),
            Err(log) if port_is_taken(&log) => {}
            Err(log) => panic!("the server ended while it started; its log:\n{log}"),
        }
    }
    panic!("ten free ports in a row were taken before the server could listen");
}

/// Starts a server on the port that it had before, retrying while a passing connection uses it.
pub fn on_same_port(mut start: impl FnMut() -> Result<Server, String>) -> Server {
    eventually(LIMIT, "the server's port is free again", || match start() {
        Ok(server) => Some(server),
        Err(log) if port_is_taken(&log) => None,
        Err(log) => panic!("the server ended while it started; its log:\n{log}"),
    })
}

/// Message for a machine on which `program` does not run.
pub fn cannot_run(program: &str, package: &str, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        format!(
            "{program} is not installed: it is in the Debian package {package}, and scripts/setup --test installs it"
        )
    } else {
        format!("cannot run {program}: {error}")
    }
}

/// Search path with Debian's folder of servers, which the path of an ordinary user may lack, and with the folder of the Valkey that
/// `scripts/redis-servers` installs.
pub(crate) fn server_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin");
    let own = env::current_exe().expect("the program's own path");
    let mut folders = own
        .ancestors()
        .map(|folder| folder.join("servers/valkey-9.1"));
    if let Some(folder) = folders.find(|folder| folder.is_dir()) {
        path.push(":");
        path.push(folder);
    }
    path
}

/// Finds a free port of 127.0.0.1 and reserves it until this process ends, so that nobody takes it while its server is stopped.
///
/// It is below the ports that the kernel assigns to passing connections and to listeners on port 0, and this process holds the lock of
/// a file that other tests try too.
fn free_port() -> u16 {
    const FIRST: u32 = 24_000;
    const PORTS: u32 = 8_000;
    static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = env::temp_dir().join("paho-mqtt-redis-test-ports");
    fs::create_dir_all(&folder).expect("a folder for the locks of ports");
    // Processes that start one after the other search far apart.
    let start = process::id().wrapping_mul(64);
    (0..PORTS)
        .find_map(|step| {
            let port = u16::try_from(FIRST + start.wrapping_add(step) % PORTS).expect("a port");
            let lock = File::create(folder.join(port.to_string())).ok()?;
            // SAFETY: the descriptor is open, and the call touches no memory.
            if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                return None;
            }
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            RESERVED.lock().expect("no panic").push(lock);
            Some(port)
        })
        .expect("a free port on 127.0.0.1")
}

fn port_is_taken(log: &str) -> bool {
    log.to_lowercase().contains("address already in use")
}

/// Makes the kernel kill the child when the thread that starts it ends.
pub(crate) fn die_with_this_thread(command: &mut Command) {
    let parent = libc::pid_t::try_from(process::id()).expect("a process id");
    let tie = move || {
        // SAFETY: both calls are safe between fork and exec, and neither touches memory.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // If the parent died before the call, no signal comes.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes the two system calls above and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// Appends the server's output to `log`, and sends each line to the channel.
fn collect(output: PipeReader, log: &Mutex<String>, lines: &Sender<String>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        log.lock().unwrap().push_str(&text);
        // Fails once the server is ready; the log is still collected.
        let _ = lines.send(text);
    }
}

/// Resident memory of a process in bytes; `None` if it has ended.
pub fn resident(pid: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}
