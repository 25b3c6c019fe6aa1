//! `gavel kasmina`: layers that grow, on the command line. One file for each command.

mod plot;
