//! Runs one input through one target, or writes the seeds of all targets for `cargo fuzz`.
#![allow(clippy::print_stderr, reason = "a command speaks")]

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["corpus", folder] => report(corpus(Path::new(folder))),
        [name, file] => match gavel_fuzz::target(name) {
            Some(target) => report(fs::read(file).map(|input| (target.run)(&input))),
            None => usage(),
        },
        _ => usage(),
    }
}

/// A folder for each target, a file for each seed.
fn corpus(folder: &Path) -> io::Result<()> {
    for target in gavel_fuzz::TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(folder.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}

fn report(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    let names = gavel_fuzz::TARGETS.map(|target| target.name).join(", ");
    eprintln!("usage: gavel-fuzz TARGET FILE | corpus FOLDER; the targets are: {names}");
    ExitCode::FAILURE
}
