//! The README and the playbook: every command in them is run, or at least known to exist.
//!
//! What belongs here: documents that tell a reader what to type. A command that cannot be run here
//! (it builds, or serves until it is stopped) is checked against the command line's own help.

use gavel_tests::{Config, Gavel, Server, Site, blocks, gavel, in_time, intent, repository};
use std::fs;
use std::path::Path;

/// The commands of a document: lines of its `sh` blocks, without comments.
fn commands(document: &str) -> Vec<String> {
    let blocks = blocks(document, "sh").join("\n").replace("\\\n", " ");
    let lines = blocks.lines().map(|line| line.split(" #").next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The options of a command must be among those that its help shows.
fn check_options(command: &str) {
    let mut words = command.split_whitespace();
    let name = words.next().expect("a command");
    let help = gavel([name, "--help"]).code(0).stdout;
    for option in words.filter(|word| word.starts_with("--")) {
        let option = option.split('=').next().expect("a name");
        assert!(help.contains(option), "`gavel {command}`: there is no {option}");
    }
}

#[test]
fn every_command_of_the_readme_works() {
    let readme = read("README.md");
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), &readme);
    // What `gavel serve` serves by itself is what the commands are sent to, with a bus.
    let sockets = folder.path().join("s");
    let bus = format!("bus: {{transports: {{unix: {{socket_dir: {}}}}}}}", sockets.display());
    let server = Site::new(&Config::text(bus)).serve();
    let fleet = fleet();
    let commands = commands(&readme);
    assert!(commands.len() >= 5, "{commands:?}");
    for command in &commands {
        match command.split_whitespace().next() {
            Some("gavel") if NOT_RUN.iter().any(|word| command[6..].starts_with(word)) => {
                check_options(&command[6..]);
            }
            Some("gavel") if ["fleet", "heal"].iter().any(|word| command[6..].starts_with(word)) => {
                run(command, folder.path(), &fleet);
            }
            Some("gavel") => run(command, folder.path(), &server),
            Some("echo") if has_netcat() => {
                run(&command.replace("/tmp/ksi", &sockets.display().to_string()), folder.path(), &server);
            }
            Some("echo") => assert!(command.contains("| nc -U /tmp/ksi/"), "{command}"),
            Some("cargo") if command.starts_with("cargo run") => {
                let (_, rest) = command.split_once(" -- ").unwrap_or_else(|| panic!("no arguments: {command}"));
                check_options(rest);
            }
            Some("tests/run") => assert!(repository().join("tests/run").is_file()),
            _ => panic!("the README has a command that no test knows: {command}"),
        }
    }
}

/// They go on until they are ended, tell of an installation that is not here, or of the machine that the tests run on.
const NOT_RUN: [&str; 6] = ["serve", "bus top", "migrate", "fleet up", "fleet top", "doctor"];

/// What `gavel fleet up` runs, on free ports, and of the kernels governance alone.
fn fleet() -> Server {
    let plan = gavel::config::FleetFile::default().plan().expect("a plan");
    let others = plan.in_order().filter(|one| one.place.name() == "process" && one.name != "governance");
    let others: Vec<String> = others.map(|one| format!("{}: {{enabled: false}}, ", one.name)).collect();
    let kernels = others.concat() + "governance: {needs: []}";
    let site =
        Site::new(&Config::text(format!("fleet: {{listen: 127.0.0.1:0, first_port: 0, kernels: {{{kernels}}}}}")));
    let (config, data) = (site.config(), site.data());
    let args =
        ["fleet".as_ref(), "up".as_ref(), "--config".as_ref(), config.as_os_str(), "--data".as_ref(), data.as_os_str()];
    Server::spawn(Gavel::new(args), site)
}

/// Whether there is a netcat that speaks to Unix sockets.
fn has_netcat() -> bool {
    let help = std::process::Command::new("nc").arg("-h").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).contains("-U"))
}

/// What the playbook is played on.
const PLAYED: &str = "
kernels:
  - id: prod
    variant: strict
    policy:
      allowed_actors: [agent-001, SYSTEM]
      allowed_tools: [echo, search]
";
const POLICY: &str = "allowed_actors: [agent-001, agent-003]\nallowed_tools: [echo, search]\n";

/// Each play on a server of its own, so that one that halts a kernel is the last of its own only.
#[test]
fn every_command_of_the_playbook_works() {
    let playbook = read("docs/playbook.md");
    let plays: Vec<&str> = playbook.split("\n### ").skip(1).collect();
    assert!(plays.len() >= 7, "{}", plays.len());
    for play in plays {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gavel.yaml"), PLAYED.replace("agent-001", "agent-002")).expect("written");
        fs::write(folder.path().join("policy.yaml"), POLICY).expect("written");
        fs::write(folder.path().join("updates.yaml"), "allowed_actors: [agent-001]\n").expect("written");
        let server = Site::new(&Config::text(PLAYED)).serve();
        for command in commands(play) {
            assert!(command.starts_with("gavel "), "the playbook has a command that no test knows: {command}");
            run(&command, folder.path(), &server);
        }
    }
}

/// The files that the README's commands name.
fn prepare(folder: &Path, readme: &str) {
    let config = blocks(readme, "yaml").into_iter().next().expect("a configuration");
    fs::write(folder.join("gavel.yaml"), config).expect("written");
    fs::write(folder.join("requests.jsonl"), format!("{}\n", intent("r1"))).expect("written");
    fs::write(folder.join("request.json"), intent("r1").to_string()).expect("written");
}

/// Run a command line as a reader would: in a shell, with `gavel` on the path.
fn run(command: &str, folder: &Path, server: &Server) {
    let output = in_time(|| {
        Gavel::shell(command, folder).env("GAVEL_URL", &server.url).env("GAVEL_FLEET_URL", &server.url).run()
    });
    assert_eq!(output.code, Some(0), "{command}\n{}\n{}", output.stdout, output.stderr);
}

#[test]
fn the_examples_of_every_help_are_real() {
    let help = gavel(["--help"]).code(0).stdout;
    let names = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in names.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()) {
        if name == "help" {
            continue;
        }
        let help = gavel([name, "--help"]).code(0).stdout;
        let examples = help.split("Example").nth(1).expect("an example");
        for example in examples.lines().filter_map(|line| line.split_once("gavel ")).map(|(_, command)| command) {
            check_options(example);
        }
    }
}

#[test]
fn the_configurations_in_the_documents_are_valid() {
    for path in ["README.md", "docs/configuration.md"] {
        for config in blocks(&read(path), "yaml") {
            // A fragment of a configuration is for reading; a whole one must be served.
            if config.lines().any(|line| line.starts_with("kernels:")) && !config.contains("component: ") {
                let site = Site::new(&Config::text(config.clone()));
                let checked = gavel(["validate".as_ref(), "--config".as_ref(), site.config().as_os_str()]);
                assert_eq!(checked.code, Some(0), "{path}: {}\n{config}", checked.stdout);
            }
        }
    }
}
