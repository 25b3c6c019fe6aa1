//! The manifests of a fleet in `docs/deploy`: they say what this program understands.
//!
//! What belongs here: that what they name is there (kernels, ports, probes, services, options), and that the tools that they
//! are for accept them, where these are on the machine. The files of a single server are in `service.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed; its helpers are part of it")]

use gavel::config::{self, File};
use gavel_tests::{gavel, gavel_path, path, repository};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    repository().join("docs/deploy")
}

/// The documents of a YAML file.
fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let parts = text.split("\n---\n");
    parts.map(|part| serde_saphyr::from_str(part).unwrap_or_else(|why| panic!("{}: {why}", file.display()))).collect()
}

/// Everything that the kustomization names, by kind and name.
fn manifests() -> BTreeMap<(String, String), Value> {
    let folder = folder().join("kubernetes");
    let list = documents(&folder.join("kustomization.yaml")).remove(0);
    let named: BTreeSet<&str> = list["resources"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    let files = ["", "kernels"].iter().flat_map(|inner| fs::read_dir(folder.join(inner)).unwrap());
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    let there: BTreeSet<&str> = files.iter().map(|file| path(file.strip_prefix(&folder).unwrap())).collect();
    let there: BTreeSet<&str> = there.into_iter().filter(|name| *name != "kustomization.yaml").collect();
    assert_eq!(named, there, "the kustomization names every file");
    let mut manifests = BTreeMap::new();
    for manifest in named.iter().flat_map(|name| documents(&folder.join(name))) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert!(manifest["kind"] == "Namespace" || manifest["metadata"]["namespace"] == "gavel", "{manifest}");
        let key = (text(&manifest["kind"]), text(&manifest["metadata"]["name"]));
        assert!(manifests.insert(key.clone(), manifest).is_none(), "{key:?} is there twice");
    }
    manifests
}

fn of_kind<'a>(
    manifests: &'a BTreeMap<(String, String), Value>,
    kind: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    manifests.iter().filter(move |((of, _), _)| of == kind).map(|((_, name), value)| (name.as_str(), value))
}

/// The configuration in a `ConfigMap`, as the program reads it.
fn configuration(manifests: &BTreeMap<(String, String), Value>, name: &str) -> File {
    let map = &manifests[&("ConfigMap".to_owned(), name.to_owned())];
    config::parse(Path::new(name), map["data"]["gavel.yaml"].as_str().unwrap()).unwrap()
}

fn args(set: &Value) -> Vec<&str> {
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect()
}

#[test]
fn every_kernel_of_the_manifests_is_in_the_table_with_its_port_and_its_probes() {
    let manifests = manifests();
    let plan = config::FleetFile::default().plan().unwrap();
    let main = configuration(&manifests, "gavel-main").fleet.plan().unwrap();
    let kernels = configuration(&manifests, "gavel-kernels");
    let mut seen = BTreeSet::new();
    for (name, set) in of_kind(&manifests, "StatefulSet").filter(|(name, _)| *name != "gavel") {
        let args = args(set);
        let ["kernel", "run", kernel, "--config", _, "--data", "/var/lib/gavel", "--listen", listen] = args[..] else {
            panic!("{name}: {args:?}")
        };
        assert_eq!(kernel.replace('_', "-"), name);
        let port = plan.find(kernel).unwrap_or_else(|| panic!("{kernel} is not in the table")).port;
        assert_eq!(listen, format!("0.0.0.0:{port}"), "{name}");
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["containerPort"], port, "{name}");
        let health = gavel::kinds::health_path(kernel);
        assert_eq!(main.find(kernel).unwrap().health_path, health, "the main API asks there too");
        for probe in ["startupProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"], json!({"path": health, "port": "http"}), "{name} {probe}");
        }
        let alive = if health == "/readyz" { "/livez" } else { health };
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], alive, "{name}");
        let environment = container["env"].as_array().unwrap();
        let door = environment.iter().find(|one| one["name"] == "GAVEL_FLEET_URL").unwrap();
        assert_eq!(door["value"], "http://gavel:8000");
        seen.insert(kernel.to_owned());
    }
    let elsewhere = main.in_order().filter(|one| one.place.name() == "elsewhere").map(|one| one.name.clone());
    assert_eq!(seen, elsewhere.collect(), "the main API reaches exactly those that are there");
    assert!(main.in_order().all(|one| one.place.name() != "process"), "the main API's pod runs no kernel");
    assert!(seen.len() >= 11 && !kernels.kernels.is_empty(), "{seen:?}");
}

#[test]
fn every_url_leads_to_a_service_and_every_service_to_a_pod() {
    let manifests = manifests();
    let services: BTreeMap<String, &Value> =
        of_kind(&manifests, "Service").map(|(name, service)| (name.to_owned(), service)).collect();
    let url_of = |service: &Value| {
        format!("http://{}:{}", service["metadata"]["name"].as_str().unwrap(), service["spec"]["ports"][0]["port"])
    };
    let urls: BTreeSet<String> = services.values().map(|service| url_of(service)).collect();
    let main = configuration(&manifests, "gavel-main");
    for (name, kernel) in &main.fleet.kernels {
        assert!(urls.contains(kernel.url.as_ref().unwrap()), "{name}: {:?}", kernel.url);
    }
    assert!(urls.contains("http://gavel:8000") && main.fleet.listen.port() == 8000);
    for (name, set) in of_kind(&manifests, "StatefulSet") {
        let service = services[set["spec"]["serviceName"].as_str().unwrap()];
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        let selected = service["spec"]["selector"].as_object().unwrap();
        assert!(selected.iter().all(|(key, value)| labels[key] == *value), "{name}");
        let matched = set["spec"]["selector"]["matchLabels"].as_object().unwrap();
        assert!(matched.iter().all(|(key, value)| labels[key] == *value), "{name}");
    }
}

#[test]
fn every_pod_is_a_plain_user_with_its_data_on_a_claim() {
    let manifests = manifests();
    for (name, set) in of_kind(&manifests, "StatefulSet") {
        let pod = &set["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(
            (&pod["securityContext"]["runAsNonRoot"], &set["spec"]["replicas"]),
            (&json!(true), &json!(1)),
            "{name}"
        );
        let confined = &container["securityContext"];
        assert_eq!(confined["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(confined["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(confined["capabilities"]["drop"], json!(["ALL"]), "{name}");
        let claims = set["spec"]["volumeClaimTemplates"].as_array().unwrap();
        let volumes = pod["volumes"].as_array().unwrap();
        let there: Vec<&Value> = volumes.iter().map(|one| &one["name"]).collect();
        assert_eq!(claims[0]["metadata"]["name"], "data", "{name}");
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(mount["name"] == "data" || there.contains(&&mount["name"]), "{name}: {mount}");
        }
        for map in volumes.iter().filter_map(|one| one["configMap"]["name"].as_str()) {
            let _ = configuration(&manifests, map);
        }
        let writable = args(set).into_iter().skip_while(|arg| *arg != "--data").nth(1).unwrap();
        assert!(container["volumeMounts"].as_array().unwrap().iter().any(|one| one["mountPath"] == writable), "{name}");
    }
    let component = |name: &str| {
        let policy = &manifests[&("NetworkPolicy".to_owned(), name.to_owned())]["spec"];
        policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"].clone()
    };
    assert_eq!((component("kernels"), component("main")), (json!("kernel"), json!("main")));
}

#[test]
fn the_main_api_is_alive_whatever_its_kernels_are() {
    let manifests = manifests();
    let set = &manifests[&("StatefulSet".to_owned(), "gavel".to_owned())];
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["path"], "/livez", "{probe}");
    }
    check_options("gavel", &args(set));
}

/// Every option of a command must be one that its help shows.
fn check_options(name: &str, args: &[&str]) {
    let command: Vec<&str> = args.iter().copied().take_while(|arg| !arg.starts_with("--")).take(2).collect();
    let help = gavel(command.iter().chain(&["--help"])).code(0).stdout;
    for option in args.iter().filter(|arg| arg.starts_with("--")) {
        assert!(help.contains(option), "{name}: there is no {option}");
    }
}

#[test]
fn kustomize_accepts_the_manifests() {
    if !present("kubectl") {
        return; // There is no kubectl on this machine.
    }
    let built = Command::new("kubectl").args(["kustomize", path(&folder().join("kubernetes"))]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

fn present(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|found| found.status.success())
}

#[test]
fn the_units_are_such_that_systemd_accepts() {
    let read = |name: &str| fs::read_to_string(folder().join(name)).unwrap();
    let fleet = read("gavel-fleet.service");
    for wanted in ["Type=notify\n", "WatchdogSec=", "KillMode=mixed\n", "ProtectSystem=strict\n"] {
        assert!(fleet.contains(wanted), "{wanted}");
    }
    let kernel = read("gavel-kernel@.service");
    assert!(kernel.contains("StandardInput=socket\n") && kernel.contains("Requires=gavel-kernel@%i.socket\n"));
    for unit in [&fleet, &kernel] {
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/gavel ")).unwrap();
        check_options(line, &line.split(' ').collect::<Vec<_>>());
    }
    if !present("systemd-analyze") {
        return; // There is no systemd on this machine.
    }
    let copies = tempfile::tempdir().unwrap();
    let here = |name: &str, text: &str| {
        let copy = copies.path().join(name);
        fs::write(&copy, text.replace("/usr/local/bin/gavel", path(gavel_path()))).unwrap();
        copy
    };
    let socket = read("gavel-kernel@.socket").replace("[Socket]\n", "[Socket]\nListenStream=127.0.0.1:8110\n");
    let units = [
        here("gavel-fleet.service", &fleet),
        here("gavel-kernel@governance.socket", &socket),
        here("gavel-kernel@governance.service", &kernel),
    ];
    let checked = Command::new("systemd-analyze").arg("verify").args(&units).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
