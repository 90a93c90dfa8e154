//! A browser without a screen: Chromium, by its DevTools protocol over a pipe
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use link_watcher_programs::{CHROMIUM, SH};
use serde_json::{Value, json};

/// How long whatever is waited for may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the page is asked whether something is so.
const LOOK: Duration = Duration::from_millis(100);
/// Complaints that are kept.
const MAX_COMPLAINTS: usize = 20;
/// What makes the pipes that it was started with those of the protocol, which are its descriptors 3 and 4.
const PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// A window's size in CSS pixels, and whether it is a phone's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
    /// As on a phone: its own zoom, no mouse.
    pub mobile: bool,
}

/// A window on a desk.
pub const DESK: Window = Window { width: 1280, height: 900, mobile: false };
/// A window on a phone.
pub const PHONE: Window = Window { width: 390, height: 844, mobile: true };

/// Chromium with one page, which is ended at the latest when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    orders: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    /// The page, once there is one.
    session: Option<String>,
    /// What the page's console has complained of: errors, refusals by the content policy.
    complaints: Vec<String>,
}

impl Browser {
    /// Whether there is one here.
    pub fn is_installed() -> bool {
        CHROMIUM.path().is_some()
    }

    /// Starts it with a profile of its own in this directory; `spawn` starts the command, in a namespace if need be.
    ///
    /// # Errors
    /// Where it cannot be started, or does not answer.
    pub fn start(directory: &Path, spawn: impl FnOnce(&mut Command) -> Result<Child>) -> Result<Browser> {
        let program = CHROMIUM.path().context("there is no Chromium here")?;
        let log = fs::File::create(directory.join("browser.log")).context("cannot make the browser's log")?;
        let mut command = SH.command();
        command.arg("-c").arg(PIPES).arg(program);
        command
            .args(["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars"])
            // Root in a namespace of its own looks at a page of our own.
            .args([
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-extensions",
                "--disable-background-networking",
            ])
            .arg(format!("--user-data-dir={}", directory.join("browser").display()))
            .env("HOME", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = spawn(&mut command)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (orders, answers) = pipes.context("the browser has no pipes")?;
        let messages = listen(answers);
        let mut browser = Browser { child, orders, messages, last_id: 0, session: None, complaints: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let parameters = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", parameters)?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}))?;
        }
        Ok(browser)
    }

    /// Goes to an address, in a window of this size.
    ///
    /// # Errors
    /// Where nobody answers there.
    pub fn open(&mut self, address: &str, window: Window) -> Result<()> {
        self.resize(window)?;
        let gone = self.call("Page.navigate", json!({ "url": address }))?;
        ensure!(gone["errorText"].is_null(), "{address}: {}", gone["errorText"]);
        Ok(())
    }

    /// Another window.
    ///
    /// # Errors
    /// The browser's.
    pub fn resize(&mut self, window: Window) -> Result<()> {
        let Window { width, height, mobile } = window;
        let scale = if mobile { 2 } else { 1 };
        let parameters = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", parameters).map(drop)
    }

    /// As on a desk that prefers `dark` or `light`.
    ///
    /// # Errors
    /// The browser's.
    pub fn prefer(&mut self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).map(drop)
    }

    /// What an expression in JavaScript is on the page.
    ///
    /// # Errors
    /// Where it throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", parameters)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true on the page. A page that is being loaded is asked again.
    ///
    /// # Errors
    /// When it does not become true; with the page's text.
    pub fn wait_for(&mut self, what: &str, expression: &str) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.evaluate(expression).is_ok_and(|value| value == true) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        let text = self.evaluate("document.body.innerText")?;
        bail!("{what} has not come within {} s: {}", PATIENCE.as_secs(), text.as_str().unwrap_or_default())
    }

    /// Presses a key, such as `Tab` or `Enter`.
    ///
    /// # Errors
    /// The browser's.
    pub fn press(&mut self, key: &str, code: u32) -> Result<()> {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let mut parameters = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" && !text.is_empty() {
                parameters["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", parameters)?;
        }
        Ok(())
    }

    /// What a screen reader is told: each node's role and name, but for those that it passes over.
    ///
    /// # Errors
    /// The browser's.
    pub fn accessible(&mut self) -> Result<Vec<(String, String)>> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}))?;
        let nodes = tree["nodes"].as_array().context("no tree for screen readers")?;
        let of = |node: &Value, field: &str| node[field]["value"].as_str().unwrap_or_default().to_owned();
        let told = nodes.iter().filter(|node| node["ignored"] != true);
        Ok(told.map(|node| (of(node, "role"), of(node, "name"))).collect())
    }

    /// Takes a picture of the whole page.
    ///
    /// # Errors
    /// The browser's, and the file system's.
    pub fn photograph(&mut self, file: &Path) -> Result<()> {
        let size = &self.call("Page.getLayoutMetrics", json!({}))?["cssContentSize"];
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.call("Page.captureScreenshot", parameters)?;
        let picture =
            STANDARD.decode(picture["data"].as_str().unwrap_or_default()).context("a picture that is none")?;
        fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What the page's console has complained of so far.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last_id += 1;
        let mut order = json!({ "id": self.last_id, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            order["sessionId"] = session.as_str().into();
        }
        self.orders.write_all(format!("{order}\0").as_bytes()).context("the browser has ended")?;
        let begun = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let mut message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => bail!("the browser does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the browser has ended instead of answering {method}"),
            };
            if message["id"] == self.last_id {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].take());
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let complaint = match message["method"].as_str() {
            Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => {
                // That a daemon is gone is seen by the page, and nothing that it does wrong.
                Some(&message["params"]["entry"]).filter(|entry| entry["source"] != "network")
            }
            Some("Runtime.exceptionThrown") => Some(&message["params"]["exceptionDetails"]),
            _ => None,
        };
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.extend(complaint.map(Value::to_string));
        }
    }
}

/// Messages of the browser: JSON, each with a zero behind it.
fn listen(answers: ChildStdout) -> Receiver<Value> {
    let (heard, messages) = channel();
    std::thread::spawn(move || {
        for bytes in BufReader::new(answers).split(0).map_while(Result::ok) {
            // What is not understood is missed by whoever waits for it; nobody may listen any more.
            if serde_json::from_slice(&bytes).is_ok_and(|message| heard.send(message).is_err()) {
                return;
            }
        }
    });
    messages
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends with the pipe, and its helpers with it; at the latest by force.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
