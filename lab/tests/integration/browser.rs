//! A headless Chromium that does what people do: looks, clicks and types. It is spoken to over a pipe, in the Chrome
//! `DevTools` protocol: JSON, each message ended by a NUL.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::stage::eventually;

/// For one answer. The first comes when the browser has started, on a machine with much to do.
const ANSWER: Duration = Duration::from_secs(60);

/// Debian's package of this name has it; `lab packages` installs it.
const PROGRAM: &str = "/usr/bin/chromium";

/// The pipe is expected at 3 and 4.
const PIPED: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >&2"#;

/// It speaks with nobody by itself.
const SWITCHES: &[&str] = &[
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
];

/// The browser, with one page.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    /// The addresses of all that the page has asked for.
    pub(crate) requests: Vec<String>,
    /// What it has complained of.
    pub(crate) complaints: Vec<String>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// Starts it, with a window of this size. What it leaves is in the folder.
    pub(crate) fn start(folder: &Path, width: u32, height: u32) -> Self {
        assert!(
            Path::new(PROGRAM).exists(),
            "{PROGRAM} is missing: apt-get install -y --no-install-recommends chromium"
        );
        let mut command = Command::new("sh");
        command.args(["-c", PIPED, "sh", PROGRAM]).args(SWITCHES);
        command.arg(format!("--user-data-dir={}", folder.join("browser").display())).env("HOME", folder);
        let log = std::fs::File::create(folder.join("browser.log")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (to, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, from) = mpsc::channel();
        std::thread::spawn(move || {
            let messages = BufReader::new(answers).split(0).map_while(Result::ok);
            let read = messages.filter_map(|message| serde_json::from_slice(&message).ok());
            read.take_while(|message: &Value| sender.send(message.clone()).is_ok()).for_each(drop);
        });
        let mut browser =
            Self { child, to, from, session: None, calls: 0, requests: Vec::new(), complaints: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", size);
        browser
    }

    /// Opens an address.
    pub(crate) fn open(&mut self, address: &str) {
        let opened = self.call("Page.navigate", json!({"url": address}));
        assert_eq!(opened["errorText"], json!(null), "{address}");
    }

    /// Light or dark, as the person prefers; with as little motion as possible, so that pictures are still.
    pub(crate) fn prefers(&mut self, scheme: &str) {
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Waits until an expression of the page is true.
    pub(crate) fn sees(&mut self, expression: &str) {
        // A page that is being left has nothing to say.
        eventually(&format!("the page to have {expression}"), || match self.try_evaluate(expression)? {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{other}; {}", self.try_evaluate("document.body.innerText")?)),
        });
    }

    /// The value of an expression of the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).unwrap()
    }

    fn try_evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let given = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.try_call("Runtime.evaluate", &given)?;
        match &answer["exceptionDetails"] {
            Value::Null => Ok(answer["result"]["value"].clone()),
            thrown => Err(format!("{expression}: {thrown}")),
        }
    }

    /// Loads the page anew.
    pub(crate) fn reload(&mut self) {
        self.call("Page.reload", json!({}));
    }

    /// Clicks on what a selector names first.
    pub(crate) fn click(&mut self, selector: &str) {
        self.sees(&format!("document.querySelector({selector:?}) !== null"));
        let place = self.evaluate(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView({{block: 'center'}}); \
             const box = it.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; }})()"
        ));
        self.point("mouseMoved", &place, 0);
        for kind in ["mousePressed", "mouseReleased"] {
            self.point(kind, &place, 1);
        }
    }

    /// Moves the pointer to a place of the window.
    pub(crate) fn point_at(&mut self, x: u32, y: u32) {
        self.point("mouseMoved", &json!([x, y]), 0);
    }

    fn point(&mut self, kind: &str, place: &Value, clicks: u32) {
        let button = if clicks > 0 { "left" } else { "none" };
        let event = json!({"type": kind, "x": place[0], "y": place[1], "button": button, "clickCount": clicks});
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            "/" => 191,
            other => panic!("the key {other} has no number here"),
        };
        let text = match key {
            "Enter" => "\r",
            "/" => "/",
            _ => "",
        };
        let event = |kind: &str, text: &str| json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", event(if text.is_empty() { "rawKeyDown" } else { "keyDown" }, text));
        self.call("Input.dispatchKeyEvent", event("keyUp", ""));
    }

    /// Writes a picture of the window.
    pub(crate) fn screenshot(&mut self, path: &Path) {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let picture: ByteString = serde_json::from_value(shot["data"].clone()).unwrap();
        std::fs::write(path, picture.0).unwrap();
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.try_call(method, &parameters).unwrap()
    }

    /// One call and its answer.
    fn try_call(&mut self, method: &str, parameters: &Value) -> Result<Value, String> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.to.flush().unwrap();
        let deadline = Instant::now() + ANSWER;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = self.from.recv_timeout(left).unwrap_or_else(|_| panic!("no answer to {method}"));
            if heard["id"] == json!(self.calls) {
                return match &heard["error"] {
                    Value::Null => Ok(heard["result"].clone()),
                    error => Err(format!("{method}: {error}")),
                };
            }
            self.note(&heard);
        }
    }

    fn note(&mut self, event: &Value) {
        let told = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.push(told["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(told["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if told["entry"]["level"] == json!("error") => {
                self.complaints.push(told["entry"].to_string());
            }
            _ => {}
        }
    }
}
