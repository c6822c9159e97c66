//! Headless Chromium, and the part of its protocol that tests of a page need.

// Chromium expects two pipes under fixed descriptor numbers, for which the standard library has no safe interface.
#![allow(unsafe_code)]

use std::{
    fs,
    io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{LIMIT, process::cannot_run};

/// Browser with one page.
pub struct Chromium {
    child: Child,
    commands: PipeWriter,
    messages: Receiver<Value>,
    session: Option<String>,
    last_id: u64,
    /// Limit on an answer, which a page delays while it works.
    pub limit: Duration,
    /// Errors and warnings that the browser has reported.
    errors: Vec<String>,
    // Dropped last, so that nothing writes to the folder when it is removed.
    _profile: TempDir,
}

impl Chromium {
    /// Starts one with a window of this size in pixels.
    pub fn start(width: u32, height: u32) -> Self {
        let profile = TempDir::new().expect("a folder");
        let (its_commands, commands) = io::pipe().expect("a pipe");
        let (answers, its_answers) = io::pipe().expect("a pipe");
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--hide-scrollbars",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        give(&mut command, &its_commands, &its_answers);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}", cannot_run("chromium", "chromium", &error)));
        drop((its_commands, its_answers));
        let (arrived, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                // Fails once the browser is dropped.
                let _ = arrived.send(message);
            }
        });
        let mut browser = Self {
            child,
            commands,
            messages,
            session: None,
            last_id: 0,
            limit: LIMIT,
            errors: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached = browser.call(
            "Target.attachToTarget",
            &json!({ "targetId": target["targetId"], "flatten": true }),
        );
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.call("Log.enable", &json!({}));
        browser.call("Page.enable", &json!({}));
        browser.call("Runtime.enable", &json!({}));
        browser.resize(width, height);
        browser
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        self.call(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false }),
        );
    }

    /// Makes pages see a user who prefers a dark scheme.
    pub fn darken(&mut self) {
        let features = json!([{ "name": "prefers-color-scheme", "value": "dark" }]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({ "features": features }),
        );
    }

    /// Disables scripts of pages; those of the test still run.
    pub fn disable_scripts(&mut self) {
        self.call(
            "Emulation.setScriptExecutionDisabled",
            &json!({ "value": true }),
        );
    }

    /// Sends a header with each request from now on.
    pub fn send_header(&mut self, name: &str, value: &str) {
        self.call("Network.enable", &json!({}));
        self.call(
            "Network.setExtraHTTPHeaders",
            &json!({ "headers": { name: value } }),
        );
    }

    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", &json!({ "url": url }));
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
    }

    /// Value of an expression in the page; null if it throws.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        self.call("Runtime.evaluate", &parameters)["result"]["value"].take()
    }

    /// Text of the first element that a selector finds.
    pub fn text(&mut self, selector: &str) -> Option<String> {
        let selector = json!(selector);
        let text = self.evaluate(&format!("document.querySelector({selector}).textContent"));
        text.as_str().map(str::to_owned)
    }

    /// Saves a screenshot of the whole page.
    pub fn screenshot(&mut self, path: &Path) {
        let picture = self.call(
            "Page.captureScreenshot",
            &json!({ "format": "png", "captureBeyondViewport": true }),
        );
        let data = picture["data"].as_str().expect("a picture");
        fs::write(path, from_base64(data)).expect("written");
    }

    /// Errors and warnings that the browser has reported so far.
    pub fn errors(&mut self) -> &[String] {
        // Earlier messages come before the answer to this call.
        self.evaluate("0");
        &self.errors
    }

    #[track_caller]
    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        write!(self.commands, "{command}\0").expect("Chromium listens");
        loop {
            let mut message = self
                .messages
                .recv_timeout(self.limit)
                .unwrap_or_else(|error| panic!("Chromium does not answer to {method}: {error}"));
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            match message["method"].as_str() {
                Some("Log.entryAdded") => {
                    let entry = &message["params"]["entry"];
                    self.errors
                        .push(format!("{} {}", entry["text"], entry["url"]));
                }
                Some("Runtime.exceptionThrown") => {
                    self.errors.push(message["params"].to_string());
                }
                _ => {}
            }
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Its other processes end with this one.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the browser read commands from descriptor 3 and write answers to descriptor 4.
fn give(command: &mut Command, commands: &PipeReader, answers: &PipeWriter) {
    let (commands, answers) = (commands.as_raw_fd(), answers.as_raw_fd());
    let give = move || {
        // SAFETY: these calls are safe between fork and exec, and touch no memory. The copies are out of the way of 3 and 4, which
        // may be one of the two.
        unsafe {
            let (from, to) = (
                libc::fcntl(commands, libc::F_DUPFD, 10),
                libc::fcntl(answers, libc::F_DUPFD, 10),
            );
            if from < 0 || to < 0 || libc::dup2(from, 3) < 0 || libc::dup2(to, 4) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::close(from);
            libc::close(to);
            // The browser dies with a test that is killed.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        Ok(())
    };
    // SAFETY: the closure only makes the system calls above and allocates nothing.
    unsafe { command.pre_exec(give) };
}

fn from_base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut number) = (0_u32, 0_u32);
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = ALPHABET
            .iter()
            .position(|other| *other == digit)
            .expect("base64");
        bits = (bits << 6) | u32::try_from(value).expect("small");
        number += 6;
        if number >= 8 {
            number -= 8;
            bytes.push(u8::try_from((bits >> number) & 255).expect("a byte"));
        }
    }
    bytes
}
