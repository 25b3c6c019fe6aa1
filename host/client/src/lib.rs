//! The client of a Gavel server.
