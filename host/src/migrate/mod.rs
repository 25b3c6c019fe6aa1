//! The way from the older daemon: its command handlers become plugins, its state files become keys of the state, and a
//! report says what there is to move and who still speaks the older commands.
//!
//! What always holds:
//! - Nothing of the older daemon is run, changed or removed. Its handlers are read as text.
//! - Nothing is overwritten: a folder that is not empty, a key that has another value, stays as it is unless that is asked
//!   for.
//! - What is moved is compared with its source, value by value.

pub mod handlers;
pub mod report;
pub mod scaffold;
pub mod state;
