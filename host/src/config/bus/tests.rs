//! What the section `bus` takes and refuses.

use crate::config::{File, parse};
use gavel_bus::unix::Mode;
use std::path::Path;

fn read(text: &str) -> Result<File, String> {
    parse(Path::new("daemon.json"), text).map_err(|why| why.to_string())
}

#[test]
fn the_older_daemons_file_is_taken_as_it_stands() {
    let text = r#"{
        "daemon": {"plugin_dirs": ["/p"], "max_event_history": 7, "event_timeout": 1.5, "event_queue_size": 10,
                   "worker_threads": 4, "batch_timeout": 0.1, "log_level": "DEBUG", "log_events": true},
        "transports": {"unix": {"enabled": true, "socket_dir": "/tmp/ksi", "compatibility_mode": true}},
        "plugins": {"state_service": {"state_dir": "/s"}, "completion_service": {"model": "m", "timeout": 300},
                    "agent_service": {"profiles_dir": "/a", "identities_file": "/i.json"}, "mine": {"x": 1}}
    }"#;
    let bus = read(text).unwrap().bus.unwrap();
    assert_eq!((bus.options().history_events_max, bus.options().event_timeout.as_millis()), (7, 1_500));
    assert_eq!(bus.transports.unix.compatibility_mode, Mode::Compatibility);
    assert_eq!(bus.plugins["mine"]["x"], 1);
}

#[test]
fn an_unknown_key_is_named() {
    for (text, key) in [
        (r#"{"daemon": {"plugin_dir": []}}"#, "plugin_dir"),
        (r#"{"transports": {"tcp": {}}}"#, "tcp"),
        (r#"{"transports": {"unix": {"socket": "x"}}}"#, "socket"),
        (r#"{"plugins": {"state_service": {"dir": "x"}}}"#, "dir"),
        (r#"{"plugins": {"completion_service": {"key": "x"}}}"#, "key"),
        (r#"{"plugins": {"message_service": {"max_subscriptions": 5}}}"#, "max_subscriptions"),
        (r#"{"plugins": {"system_service": {"x": 5}}}"#, "x"),
        (r#"{"plugins": {"unix_transport": {"socket_dir": "x"}}}"#, "socket_dir"),
        (r#"{"plugins": {"nats_bridge": {"url": "x"}}}"#, "url"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told.contains(&format!("unknown key `{key}`")), "{told}");
    }
}

#[test]
fn modes_are_flags_or_names() {
    for (text, mode) in
        [("true", Mode::Compatibility), ("false", Mode::Pure), ("\"hybrid\"", Mode::Hybrid), ("\"pure\"", Mode::Pure)]
    {
        let file = read(&format!(r#"{{"transports": {{"unix": {{"compatibility_mode": {text}}}}}}}"#)).unwrap();
        assert_eq!(file.bus.unwrap().transports.unix.compatibility_mode, mode);
    }
    assert!(read(r#"{"transports": {"unix": {"compatibility_mode": 3}}}"#).is_err());
}

#[test]
fn what_stands_twice_and_what_is_out_of_range_is_refused() {
    assert!(read(r#"{"daemon": {}, "bus": {"daemon": {}}}"#).unwrap_err().contains("`daemon`"));
    assert!(read(r#"{"daemon": {"event_timeout": 0}}"#).unwrap_err().contains("daemon.event_timeout"));
    assert!(read(r#"{"daemon": {"event_queue_size": 0}}"#).unwrap_err().contains("event_queue_size"));
    assert!(read(r#"{"bus": {"kernel": "none"}}"#).unwrap_err().contains("none"));
    for (keys, told) in [
        (r#""provider": "openai", "model": "m""#, "base_url is missing"),
        (r#""provider": "openai", "base_url": "http://x""#, "model is missing"),
        (r#""api_key_env": "A", "api_key_file": "b""#, "name two keys"),
        (r#""max_running": 0"#, "max_running is 0"),
        (r#""provider": "cloud""#, "cloud"),
        (r#""api_key": "secret""#, "unknown key `api_key`"),
    ] {
        let file = read(&format!(r#"{{"plugins": {{"completion_service": {{{keys}}}}}}}"#));
        let why = file.unwrap_err();
        assert!(why.contains(told), "{why}");
    }
}

#[test]
fn the_bus_has_a_kernel_for_its_records() {
    let file = read(r#"{"daemon": {}}"#).unwrap();
    assert_eq!(file.kernels.last().unwrap().id, "bus");
    let file = read(r#"{"bus": {"kernel": "default"}}"#).unwrap();
    assert!(file.kernels.iter().all(|kernel| kernel.id != "bus"));
}
