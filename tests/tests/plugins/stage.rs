//! A host with a bus and a folder of plugins, and a client of its sockets.

use gavel_tests::{Config, PATIENCE, Server, Site, path, repository};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The component that does what an event's name says (`tests/guests/plugin`).
pub(crate) fn test_plugin() -> Vec<u8> {
    std::fs::read(repository().join("tests/data/guests/plugin.wasm")).unwrap()
}

/// A site whose host watches a folder of plugins many times a second, and forgives quickly.
pub(crate) struct Stage {
    pub(crate) site: Site,
}

impl Stage {
    /// With nothing in the folder, and this under `plugins` in the configuration.
    pub(crate) fn new(plugins: &Value) -> Self {
        Self::with(plugins, &json!({}), Config::open())
    }

    /// The same with these keys of `daemon` besides, and a configuration for the rest.
    pub(crate) fn with(plugins: &Value, daemon: &Value, config: Config) -> Self {
        let stage = Self { site: Site::new(&Config::open()) };
        std::fs::create_dir_all(stage.folder()).unwrap();
        stage.configure(plugins, daemon, config);
        stage
    }

    /// Write another configuration.
    pub(crate) fn configure(&self, plugins: &Value, daemon: &Value, config: Config) {
        let mut keys = json!({
            "plugin_dirs": [self.folder()], "plugin_watch_interval": 0.02, "backoff_first": 0.001,
            "backoff_max": 0.001, "max_failures": 1_000,
        });
        keys.as_object_mut().unwrap().extend(daemon.as_object().unwrap().clone());
        let unix = json!({"unix": {"socket_dir": self.site.path().join("run")}});
        let bus = json!({"daemon": keys, "transports": unix, "plugins": plugins});
        self.site.configure(&config.with("bus", bus));
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.site.path().join("plugins")
    }

    /// Put a bare component into the folder, whole.
    pub(crate) fn put(&self, name: &str, component: &[u8]) {
        put_whole(&self.folder().join(format!("{name}.wasm")), component);
    }

    /// Put a plugin with a manifest into the folder: the component first, then the manifest that names it.
    pub(crate) fn put_with(&self, name: &str, component: &[u8], manifest: &Value) {
        let folder = self.folder().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        put_whole(&folder.join("component.wasm"), component);
        let mut manifest = manifest.clone();
        manifest["component"] = json!("component.wasm");
        put_whole(&folder.join("plugin.yaml"), manifest.to_string().as_bytes());
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder().join(format!("{name}.wasm"))).unwrap();
    }

    pub(crate) fn serve(&self) -> (Server, Client) {
        let server = self.site.serve();
        (server, self.client())
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.site.path().join("run/events.sock"))
    }

    pub(crate) fn plugins_of_validate(&self) -> (Option<i32>, String) {
        let told = gavel_tests::gavel(["validate", "--config", path(&self.site.config())]);
        (told.code, told.stdout)
    }

    /// The same with what is an error before anything is looked at.
    pub(crate) fn validated(&self) -> (Option<i32>, String) {
        let told = gavel_tests::gavel(["validate", "--config", path(&self.site.config())]);
        (told.code, told.stdout + &told.stderr)
    }
}

/// Put a file there at once, as a careful tool does.
pub(crate) fn put_whole(path: &Path, bytes: &[u8]) {
    let aside = path.with_extension("part");
    std::fs::write(&aside, bytes).unwrap();
    std::fs::rename(&aside, path).unwrap();
}

/// A client of the bus.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap_or_else(|why| panic!("{}: {why}", socket.display()));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// The answer to an event.
    pub(crate) fn ask(&mut self, event: &str, data: Value) -> Value {
        let frame = json!({"event": event, "data": data, "correlation_id": "test"});
        writeln!(self.stream.get_mut(), "{frame}").unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap_or_else(|why| panic!("{event} is not answered: {why}"));
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!(answer.as_object_mut().unwrap().remove("correlation_id"), Some(json!("test")), "{line}");
        answer
    }

    /// The code and the text of an answer that must be an error.
    pub(crate) fn refused(&mut self, event: &str, data: Value) -> (String, String) {
        let answer = self.ask(event, data);
        let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("{event}: {answer}")).to_owned();
        (text("code"), text("error"))
    }

    /// Ask until the answer is as wanted.
    pub(crate) fn until(&mut self, event: &str, data: &Value, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(event, data.clone());
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < until, "{event} does not come to what is waited for: {answer}");
            std::thread::yield_now();
        }
    }

    /// A plugin that breaks rests for a moment: ask until it answers.
    pub(crate) fn until_well(&mut self, event: &str, data: &Value) -> Value {
        self.until(event, data, |answer| answer.get("error").is_none())
    }

    /// What `system:plugins` says of a plugin, once it is there.
    pub(crate) fn plugin(&mut self, name: &str) -> Value {
        let told = self.until("system:plugins", &json!({}), |told| !told["plugins"][name].is_null());
        told["plugins"][name].clone()
    }

    /// Why a plugin is left out, once it is.
    pub(crate) fn broken(&mut self, name: &str) -> String {
        let told = self.until("system:plugins", &json!({}), |told| !told["broken"][name].is_null());
        told["broken"][name].as_str().unwrap().to_owned()
    }

    /// What `system:plugin_status` says of a plugin.
    pub(crate) fn status(&mut self, name: &str) -> Value {
        self.ask("system:plugin_status", json!({}))["plugins"][name].clone()
    }
}
