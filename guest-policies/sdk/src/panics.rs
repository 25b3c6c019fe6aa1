//! A panic's words reach the host before the trap does. Without this the operator reads only `unreachable`.

use std::panic::PanicHookInfo;

use crate::log;

/// From now on write a panic's message and place to the log, at level error.
///
/// Called at the beginning of every export, because an instance has no other beginning: a constructor would have to be
/// exported, and the hook costs next to nothing to set.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| log::write(log::Level::Error, &line(panic))));
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let message = message.unwrap_or("panicked with a value that is no text");
    match panic.location() {
        Some(place) => format!("panic: {message} ({place})"),
        None => format!("panic: {message}"),
    }
}
